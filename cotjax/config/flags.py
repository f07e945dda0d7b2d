"""Command-line flags as the table that a file would give: `--rollout.group-size 8`, `--resume`.

A word becomes a number where its key takes one; what it does not fit is refused as in a file.
"""

import tomllib
import typing
from collections.abc import Sequence
from typing import Any

from cotjax.config.reading import kinds, unknown
from cotjax.config.whole import HINTS
from cotjax.errors import InputError

OTHERS = ("config", "help", "version")  # flags that are no keys


def read_flags(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The file that `--config` names, and the settings of all other flags.

    Args:
      argv: `--key value` or `--key=value`, with - or _; `--key` and `--no-key` (or
        `--section.no-key`) for what is true or false; `--key a b` for a list, and
        `--key "{ name = 1 }"` for a table. Of a flag that is given twice the last one counts; one
        of a list is refused, since both may be meant.

    Returns:
      the path, empty without one; the settings, nested as in a file.

    Example:
      >>> read_flags(["--config=a.toml", "--rollout.group-size", "8", "--rollout.stop", "a", "b"])
      ('a.toml', {'rollout': {'group_size': 8, 'stop': ['a', 'b']}})

    Raises:
      InputError: a flag that is no key (names the nearest), one without its value, a value
        without a flag, or a list that is given twice.
    """
    path, rest = "", list(argv)
    table: dict[str, Any] = {}
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--"):
            raise InputError(f"{flag}: no flag stands before it. Write --key {flag} or --key=….")
        key, no = key_of(flag)
        words = [value] if equals else []
        hint = str if key == "config" else HINTS[key]
        if hint is bool:
            if not equals and rest and rest[0] in ("true", "false"):
                words = [rest.pop(0)]
            setting = _switch(flag, words, no)
        elif typing.get_origin(hint) is tuple:
            while rest and not rest[0].startswith("--"):
                words.append(rest.pop(0))
            setting = [_one(word, typing.get_args(hint)[0]) for word in words]
        else:
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise InputError(f"{flag}: needs a value. Write {flag} VALUE or {flag}=VALUE.")
                words = [rest.pop(0)]
            is_table = typing.get_origin(hint) is dict
            setting = _toml(words[0]) if is_table else _one(words[0], hint)
        if key == "config":
            path = str(setting)
        else:
            *sections, name = key.split(".")
            here = table
            for section in sections:
                here = here.setdefault(section, {})
            if isinstance(setting, list) and name in here:
                both = " ".join(str(one) for one in [*here[name], *setting])
                raise InputError(f"{flag}: is given twice. Write {flag} {both}.")
            here[name] = setting
    return path, table


def key_of(flag: str, also: Sequence[str] = ()) -> tuple[str, bool]:
    """The key of a flag, and whether the flag says no to it.

    Args:
      flag: with its hyphens, without its value.
      also: other flags that the nearest may be one of, without hyphens.

    Raises:
      InputError: it is no key; names the nearest.
    """
    key = flag.removeprefix("--").replace("-", "_")
    head, dot, last = key.rpartition(".")
    positive = f"{head}{dot}{last.removeprefix('no_')}"
    if key == "stages":
        raise InputError("--stages: a list is written in a file, as [[stages]]. Name it: --config.")
    if key == "config" or key in HINTS:
        return key, False
    if HINTS.get(positive) is bool:
        return positive, True
    raise InputError(f"--{key.replace('_', '-')}: {unknown(key, (*OTHERS, *also))}")


def _switch(flag: str, words: Sequence[str], no: bool) -> Any:
    if not words:
        return not no
    if no:
        raise InputError(f"{flag}={words[0]}: takes no value. Write {flag} alone.")
    return {"true": True, "false": False}.get(words[0].lower(), words[0])


def _one(word: str, hint: Any) -> Any:
    """What a word stands for; the word itself if it is not what the key takes."""
    types, choices = kinds(hint)
    for choice in choices:
        if word == str(choice):
            return choice
    for kind in (int, float):
        if kind in types:
            try:
                return kind(word)
            except ValueError:
                continue
    return word


def _toml(word: str) -> Any:
    """A table as TOML writes it, `{ cap = 2.0 }`; any other word itself."""
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except tomllib.TOMLDecodeError:
        return word
