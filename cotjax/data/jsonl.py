r"""Questions and solutions from a file, one JSON object a line.

GSM8K's own layout; calculator marks `<<48/2=24>>` are removed, each other line is a step:

    {"question": "…", "answer": "He sold 48/2 = <<48/2=24>>24 clips.\n#### 24"}
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Literal

from cotjax.errors import InputError
from cotjax.interfaces import Record

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def read_records(
    path: str,
    gold_answer: Callable[[str], str | None],
    *,
    key: str = "data.path",
    on_bad_record: Literal["error", "skip"] = "error",
) -> list[Record]:
    """All records of a file, in its order.

    Args:
      path: of the file.
      gold_answer: the gold number of an answer text, None if there is none.
      key: the config key that named the file, for errors.
      on_bad_record: stop at an unusable line, or leave it out.

    Returns:
      at least one record; ids are `<file name>:<line number>`.

    Raises:
      InputError: no file, nothing in it, or an unusable line (with its number).
    """
    file = pathlib.Path(path)
    try:
        # Not splitlines: it also splits at U+2028 and others that a JSON string may hold.
        with file.open(encoding="utf-8") as text:
            lines = [line.strip() for line in text]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f'{key} = "{path}": cannot be read ({error}). '
            f"Set {key} to a .jsonl file that can be read."
        ) from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            records.append(_record(line, f"{file.name}:{number}", gold_answer))
        except InputError as error:
            if on_bad_record == "error":
                raise InputError(
                    f'{error} Fix the line or set data.on_bad_record = "skip".'
                ) from error
    if not records:
        raise InputError(
            f'{key} = "{path}": no usable record in {len(lines)} lines. Name a .jsonl file with '
            '"question" and "answer" on each line.'
        )
    return records


def _record(line: str, name: str, gold_answer: Callable[[str], str | None]) -> Record:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}: not JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, 1000 brackets
        raise InputError(f"{name}: JSON that cannot be read ({error}).") from error
    for key in ("question", "answer"):
        if not isinstance(row, dict) or not isinstance(row.get(key), str):
            raise InputError(f'{name}: needs a text under "{key}".')
    gold = gold_answer(row["answer"]) if "####" in row["answer"] else None
    if gold is None:
        raise InputError(f'{name}: "answer" has no line "#### <number>".')
    steps = tuple(_steps(row["answer"]))
    return Record(name, row["question"].strip(), gold, steps, difficulty=len(steps))


def _steps(answer: str) -> Iterator[str]:
    for line in _CALCULATOR.sub("", answer).splitlines():
        if line.strip() and not line.lstrip().startswith("####"):
            yield line.strip()
