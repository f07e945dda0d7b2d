"""Files that are there whole or not at all, also when the disk is full; and what is left of others.

A write that fails leaves what was there before, and names the file, the reason and the way on.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.errors import InputError

AGAIN = "Make space there and go on with --resume: what was written before is whole."
SAME = "Make space there and run the same command again: what was written before is whole."
UNBEGUN = "Make space there, or set --output to another disk."


def write_whole(path: pathlib.Path, text: str | bytes, *, then: str = AGAIN) -> None:
    """Writes a file in one piece: a reader, and whoever comes after a kill, finds it old or new.

    Args:
      path: of the file; its folder exists.
      text: what it is to hold.
      then: what to do where it cannot be written.

    Raises:
      InputError: it cannot be written, as on a full disk; the old one is still there.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        _write(temporary, _bytes(text), os.O_TRUNC)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise unwritten(path, error, then) from error


def append_whole(path: pathlib.Path, text: str | bytes, *, then: str = AGAIN) -> None:
    """Appends to a file; a part of it that did fit is taken back.

    Args:
      path: of the file, which need not exist.
      text: whole lines.
      then: what to do where it cannot be written.

    Raises:
      InputError: it cannot be written; the file is as it was before.
    """
    before = path.stat().st_size if path.exists() else 0
    try:
        _write(path, _bytes(text), os.O_APPEND)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise unwritten(path, error, then) from error


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")


def _write(path: pathlib.Path, data: bytes, how: int) -> None:
    """All bytes in one system call where the disk takes them; a rest that it does not raises."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o666)
    try:
        left = memoryview(data)
        while left:  # a short write is followed by another, which says why
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def unwritten(path: pathlib.Path, error: Exception, then: str) -> InputError:
    """The error of a file or folder that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0][:200]
    return InputError(f"{path}: cannot be written ({reason}). {then}")


def read_json(path: pathlib.Path, *, fix: str) -> Any:
    """What a file of JSON holds.

    Args:
      path: of the file.
      fix: what to do with one that is damaged.

    Raises:
      InputError: it is damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(f"{path}: is damaged ({error}). {fix}") from error


ROW = ("step", "kind")  # what every line of metrics.jsonl and completions.jsonl has


def whole_rows(data: bytes, needs: Sequence[str] = ROW) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a run's .jsonl file that are whole, each with the object in it.

    A line that was cut, or is no object with what it needs, is left out.

    Args:
      data: of the file, which may be cut or damaged anywhere.
      needs: names that an object has.
    """
    *ended, _ = data.split(b"\n")  # nothing else ends a line of JSON
    for line in ended:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        known = isinstance(row, dict) and all(name in row for name in needs)
        if known and ("step" not in needs or type(row["step"]) is int):
            yield line + b"\n", row


def rows_of(path: pathlib.Path, needs: Sequence[str] = ROW) -> list[dict[str, Any]]:
    """The objects of a run's .jsonl file, see `whole_rows`; none if it is not there."""
    return [row for _, row in whole_rows(path.read_bytes(), needs)] if path.is_file() else []
