"""TOML tables into dataclasses: unknown keys and wrong types stop here."""

import dataclasses
import difflib
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from cotjax.config.sections import BridgeConfig, Config, every_setting
from cotjax.errors import InputError


def read_toml(path: str) -> dict[str, Any]:
    """A file as nested tables.

    Raises:
      InputError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"--config {path}: {error.strerror}. Name a TOML file that can be read."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}. Fix it there.") from error


def merge(base: Any, table: dict[str, Any], path: str, prefix: str = "") -> Any:
    """Puts a TOML table's values over a dataclass's, section by section.

    Args:
      base: the dataclass.
      table: a TOML table.
      path: of its file, for the error.
      prefix: of the keys, for the error.

    Raises:
      InputError: an unknown key, or a value of a wrong type.
    """
    hints = typing.get_type_hints(type(base))
    changes = {}
    for name, value in table.items():
        key = prefix + name
        if name not in hints:
            raise InputError(f'{path}: unknown key "{key}". Did you mean "{_nearest(key)}"?')
        if hints[name] is _TABLE:
            changes[name] = _deep(getattr(base, name), value)
        elif not dataclasses.is_dataclass(hints[name]):
            changes[name] = typed(key, value, hints[name], path)
        elif isinstance(value, dict):
            changes[name] = merge(getattr(base, name), value, path, f"{key}.")
        else:
            raise InputError(f"{path}: {key} = {json.dumps(value)}: needs a section [{key}].")
    return dataclasses.replace(base, **changes)


_TABLE = typing.get_type_hints(BridgeConfig)["grpo"]  # the type without its annotation


def _deep(base: dict[str, Any], over: Any) -> dict[str, Any]:
    """One nested table over another."""
    if not isinstance(over, dict):
        raise InputError(f"[bridge]: {json.dumps(over, default=str)}: needs a section per stage.")
    both = {
        key: _deep(base[key], value) if isinstance(base.get(key), dict) else value
        for key, value in over.items()
    }
    return {**base, **both}


_NEEDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def typed(key: str, value: Any, hint: Any, path: str) -> Any:
    """Returns `value` if it is what the key needs; a whole number may stand for a float."""
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise InputError(f"{path}: {key} = {json.dumps(value, default=str)}: needs a list.")
        return tuple(typed(key, one, typing.get_args(hint)[0], path) for one in value)
    choices: list[Any] = []
    types: list[type] = []
    for part in typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,):
        choices += typing.get_args(part)
        types += [part] if part in _NEEDS else []
    if any(type(value) is type(choice) and value == choice for choice in choices):
        return value
    if type(value) in types:
        return value
    if float in types and type(value) is int:
        return float(value)
    needs = [_NEEDS[kind] for kind in types]
    needs += ["one of " * (len(choices) > 1) + ", ".join(map(json.dumps, choices))] * bool(choices)
    shown = json.dumps(value, default=str)
    raise InputError(
        f"{path}: {key} = {shown} ({type(value).__name__}): needs {' or '.join(needs)}."
    )


def _nearest(key: str) -> str:
    """The known key most like an unknown one: alike as a whole, and in its last part."""

    def likeness(known: str) -> float:
        pairs = (known, key), (known.rpartition(".")[2], key.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max((known for known, _, _ in every_setting(Config())), key=likeness)
