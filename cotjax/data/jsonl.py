"""Rows of JSON files: one object a line, or one array of objects."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.data.files import read_lines
from cotjax.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")


def json_rows(
    path: str, key: str, *, lines: Sequence[str] | None = None
) -> Iterator[tuple[str, Any]]:
    """(place, row) of each object; a row that is not JSON is the InputError that says why.

    Args:
      path: of the file, or of a folder of files.
      key: the config key that named it, for errors.
      lines: the file's lines, if somebody has read them already.

    Raises:
      InputError: a file that cannot be read.
    """
    files = read_lines(path, key) if lines is None else [(path.rpartition("/")[2], list(lines))]
    return (row for name, own in files for row in _rows(name, own))


def _rows(name: str, lines: Sequence[str]) -> Iterator[tuple[str, Any]]:
    first = next((stripped for line in lines if (stripped := line.strip())), "")
    if first.startswith("["):
        # An array over several lines; a line that is whole in itself is a bad row among others.
        array = _parse("\n".join(lines), name)
        if isinstance(array, list) and all(isinstance(row, dict) for row in array):
            yield from ((f"{name}:{number}", row) for number, row in enumerate(array, 1))
            return
        if isinstance(array, InputError) and first == "[":
            yield name, array
            return
    elif first == "{":  # pretty-printed; no line of it is JSON
        whole = _parse("\n".join(lines), name)
        if isinstance(whole, dict):
            keys = ", ".join(f'"{key}"' for key in whole)
            needs = "is one object over several lines; an object a line is needed, or one array."
            yield name, InputError(f"{name}: {needs} It has {keys:.200}.")
            return
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{name}:{number}"
            yield place, _parse(line, place)


def _parse(text: str, place: str) -> Any:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        reason, before = error.msg, text[: error.pos].rstrip()
        if before.endswith(",") and re.match(r"\s*[\]}]", text[error.pos :]):
            reason = "a comma before the end of a list or object"
            error = json.JSONDecodeError(reason, text, len(before) - 1)  # which is where it stands
        if "\n" in text:
            place = f"{place}:{error.lineno}"
        return InputError(f"{place}: not JSON ({reason}, column {error.colno}).")
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        return InputError(f"{place}: JSON that cannot be read ({error}).")
    return _writable(row) if "\\u" in text else row


def _writable(value: Any) -> Any:
    """The same with U+FFFD for half a surrogate pair, which no tokenizer and no file takes."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_writable(one) for one in value]
    if isinstance(value, dict):
        return {_writable(name): _writable(one) for name, one in value.items()}
    return value
