"""Rows of a JSON file: one object a line, or one array of objects."""

import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.errors import InputError


def json_rows(
    path: str, key: str, *, lines: Sequence[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """(place, row) of each object; a row that is not JSON is the InputError that says why.

    Args:
      path: of the file.
      key: the config key that named it, for errors.
      lines: the file's lines, if somebody has read them already.

    Raises:
      InputError: a file that cannot be read.
    """
    file = pathlib.Path(path)
    if lines is None:
        try:
            # Not splitlines: it also splits at U+2028 and others that a JSON string may hold.
            with file.open(encoding="utf-8") as text:
                lines = [line.strip() for line in text]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f'{key} = "{path}": cannot be read ({error}). '
                f"Set {key} to a .jsonl file that can be read."
            ) from error
    return _rows(file.name, lines)


def _rows(name: str, lines: Sequence[str]) -> Iterator[tuple[str, Any]]:
    first = next((line for line in lines if line), "")
    if first.startswith("["):
        # An array over several lines; a line that is whole in itself is a bad row among others.
        array = _parse("\n".join(lines), name)
        if isinstance(array, list) and all(isinstance(row, dict) for row in array):
            yield from ((f"{name}:{number}", row) for number, row in enumerate(array, 1))
            return
    for number, line in enumerate(lines, 1):
        if line:
            place = f"{name}:{number}"
            yield place, _parse(line, place)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return InputError(f"{place}: not JSON ({error.msg}, column {error.colno}).")
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        return InputError(f"{place}: JSON that cannot be read ({error}).")
