"""TOML tables into dataclasses: unknown keys and wrong types stop here."""

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cotjax.config.old_names import new_name
from cotjax.config.ranges import Named
from cotjax.config.whole import KEYS, SECTIONS
from cotjax.errors import InputError


def read_toml(path: str, *, flag: str = "--config ") -> dict[str, Any]:
    """A file as nested tables.

    Args:
      path: of the file.
      flag: that named it, for the error.

    Raises:
      InputError: it cannot be read, or is not TOML.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        _check_integers(table)
        return table
    except OSError as error:
        raise InputError(
            f"{flag}{path}: {error.strerror}. Name a TOML file that can be read."
        ) from error
    except (ValueError, RecursionError) as error:  # not TOML, not text, lists in lists in lists
        raise InputError(f"{path}: not valid TOML: {error}. Fix it there.") from error


def _check_integers(value: Any) -> None:
    """Refuses integers beyond 64 bits, as TOML does; Python reads them, and cannot print them all.

    Raises:
      ValueError: there is one.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("an integer beyond 64 bits")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_integers(one)


def merge(base: Any, table: dict[str, Any], path: str, prefix: str = "") -> Any:
    """Puts a table's values over a dataclass's, section by section.

    Args:
      base: the dataclass.
      table: as TOML gives it.
      path: of its file, for the error.
      prefix: of the keys, for the error.

    Raises:
      InputError: an unknown key, or a value of a wrong type.
    """
    hints = typing.get_type_hints(type(base), include_extras=True)
    changes = {}
    for name, value in table.items():
        key = prefix + name
        if name not in hints:
            raise InputError(f"{path}: {unknown(key)}")
        if not dataclasses.is_dataclass(hints[name]):
            changes[name] = typed(key, value, hints[name], path)
        elif isinstance(value, dict):
            changes[name] = merge(getattr(base, name), value, path, f"{key}.")
        else:
            raise InputError(f"{path}: {key} = {_shown(value)}: needs a section [{key}].")
    return dataclasses.replace(base, **changes)


def unknown(key: str, also: Sequence[str] = ()) -> str:
    """A sentence about a key that does not exist: its new name, or the one most like it.

    Args:
      key: as it was written.
      also: what is known beside the keys and sections.
    """
    new = new_name(key)
    if new:
        return f'unknown key "{key}": it is now {new}.'
    if key in SECTIONS:
        return f"{key} is a section: set {key}.KEY. cotjax train --help {key} lists its keys."
    return f'unknown key "{key}". Did you mean "{nearest(key, (*KEYS, *SECTIONS, *also))}"?'


def nearest(key: str, words: Iterable[str]) -> str:
    """The word most like an unknown key: alike as a whole, and in its last part."""
    return max(words, key=lambda known: _likeness(key, known))


def likely(word: str, words: Iterable[str], form: str = "{}") -> str:
    """What a word was meant for, as ` Did you mean "train"?`; empty if nothing is like it.

    Args:
      word: as it was written.
      words: what is known.
      form: how a known word is written.
    """
    close = nearest(word, words)
    return f' Did you mean "{form.format(close)}"?' if _likeness(word, close) > 1.1 else ""


def _likeness(key: str, known: str) -> float:
    """0–2: how alike two keys are as a whole, and in their last parts."""
    key = key[:80]  # comparing takes the product of the lengths
    pairs = (known, key), (known.rpartition(".")[2], key.rpartition(".")[2])
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """One nested table over another."""
    both = {
        key: overlay(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }
    return {**base, **both}


def keys_of(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of a nested table, down to settings."""
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and key not in KEYS:
            yield from keys_of(value, f"{key}.")
        else:
            yield key


_NEEDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
}


def typed(key: str, value: Any, hint: Any, path: str) -> Any:
    """Returns `value` if it is what the key needs; a whole number may stand for a float.

    Raises:
      InputError: it is not.
    """
    while typing.get_origin(hint) is typing.Annotated:
        named = [one for one in hint.__metadata__ if isinstance(one, Named)]
        hint = hint.__origin__
        if named:
            return _named(key, value, named[0], path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{path}: {key} = {_shown(value)}: needs a list.")
        return tuple(typed(key, one, typing.get_args(hint)[0], path) for one in value)
    if hint is Any:
        return value
    if typing.get_origin(hint) is dict:
        if isinstance(value, dict):
            _, inner = typing.get_args(hint)
            return {name: typed(f"{key}.{name}", one, inner, path) for name, one in value.items()}
        hint = dict
    types, choices = kinds(hint)
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    if type(value) in types and type(value) is not dict:
        return value
    if float in types and type(value) is int:
        return float(value)
    needs = [_NEEDS[kind] for kind in types]
    needs += ["one of " * (len(choices) > 1) + ", ".join(map(json.dumps, choices))] * bool(choices)
    raise InputError(
        f"{path}: {key} = {_shown(value)} ({type(value).__name__}): needs {' or '.join(needs)}."
    )


def kinds(hint: Any) -> tuple[list[type], list[Any]]:
    """The types that a key takes, and the values beside them; neither of a reference."""
    types: list[type] = []
    choices: list[Any] = []
    for part in typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,):
        while typing.get_origin(part) is typing.Annotated:
            part = part.__origin__
        choices += typing.get_args(part)
        types += [part] if part in _NEEDS else []
    return types, choices


def _named(key: str, value: Any, named: Named, path: str) -> Any:
    """A built-in name, a reference, or a user's object from Python."""
    if isinstance(value, str) and (value in named.known or ":" in value):
        return value
    if named.lists and isinstance(value, list | tuple):
        return value
    if isinstance(value, str | int | float | list | tuple | dict | None):
        close = difflib.get_close_matches(str(value), named.known, n=1)
        hint = f' Did you mean "{close[0]}"?' if close else ""
        if isinstance(value, str) and value.endswith(".py"):
            hint = f' Name what it defines: "{value}:NAME".'
        raise InputError(
            f"{path}: {key} = {_shown(value)}: needs one of "
            f"{', '.join(map(json.dumps, named.known))}, or a reference such as "
            f'"./file.py:name" to {named.takes}.{hint}'
        )
    return value


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
