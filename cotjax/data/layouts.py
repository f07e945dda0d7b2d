r"""A row of a file, whatever its format, to a `Record`: one function per layout.

    gsm8k      {"question": "…", "answer": "He sold 48/2 = <<48/2=24>>24 clips.\n#### 24"}
    bridge     {"input": "Question: …", "target": "Thinking…\n…\n\nStep 1: …\n\nAnswer: 24"}
    failures   {"question": "…", "gold_answer": "24", "teacher_cot": "Thinking…\n… Answer: 24", …}
    gym        {"question": "…", "answer": "24"}, without a rationale (reasoning-gym)

`failures` is the layout of BRIDGE's stage3_error_samples.json. "auto" goes by the row's keys.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from cotjax.errors import InputError
from cotjax.interfaces import Record

Layout = Literal["auto", "gsm8k", "bridge", "failures", "gym"]

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_HEAD = "Thinking…"


class ParsedRationale(Protocol):
    """A solution in pieces, as `cotjax.cot.parse_rationale` gives it."""

    @property
    def thinking(self) -> str:
        """Text before the steps."""
        ...

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps, without markers."""
        ...


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """How rows become records.

    Attributes:
      gold_answer: the canonical number of an answer text, None if there is none.
      parse: a solution in pieces.
      equal: whether two answers are the same number.
      layout: which keys a row has.
      keep_calculator: leave GSM8K's `<<48/2=24>>` in the steps.
      filter_teacher: refuse a rationale that does not end in the gold answer.
      columns: a layout's key to the column of the file that holds it, where they differ.
    """

    gold_answer: Callable[[str], str | None]
    parse: Callable[[str], ParsedRationale]
    equal: Callable[[str | None, str | None], bool]
    layout: Layout = "auto"
    keep_calculator: bool = False
    filter_teacher: bool = True
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def record(self, row: Any, name: str) -> Record:
        """The record of a row.

        Args:
          row: a mapping.
          name: file and place; the record's id.

        Raises:
          InputError: the row is not of the layout, has no gold number, cannot be split into
            steps, or its rationale ends in another answer than the gold one.
        """
        row = self._renamed(row, name) if isinstance(row, Mapping) else {}
        layout = self.layout
        if layout == "auto":
            known = (one for one, (keys, _) in _LAYOUTS.items() if keys <= row.keys())
            layout = next(known, "gsm8k")
        keys, make = _LAYOUTS[layout]
        for key in sorted(keys, reverse=True):
            if not isinstance(row.get(key), str):
                raise InputError(f'{name}: needs a text under "{key}".')
        return make(self, row, name)

    def _renamed(self, row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The row under the keys of its layout."""
        for key, column in self.columns.items():
            if column not in row:
                there = ", ".join(f'"{one}"' for one in row)
                raise InputError(
                    f'{name}: has no column "{column}", which data.columns names for "{key}". It '
                    f"has {there or 'none'}. Set data.columns to what is there."
                )
        taken = set(self.columns.values()) - set(self.columns)
        kept = {key: value for key, value in row.items() if key not in taken}
        return kept | {key: row[column] for key, column in self.columns.items()}


def _gsm8k(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    gold = reader.gold_answer(row["answer"]) if "####" in row["answer"] else None
    if gold is None:
        raise InputError(f'{name}: "answer" has no line "#### <number>".')
    answer = row["answer"] if reader.keep_calculator else _CALCULATOR.sub("", row["answer"])
    steps = tuple(_lines(answer))
    return Record(name, row["question"].strip(), gold, steps, difficulty=len(steps))


def _lines(answer: str) -> Iterator[str]:
    for line in answer.splitlines():
        if line.strip() and not line.lstrip().startswith("####"):
            yield line.strip()


def _bridge(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    question = row["input"].strip().removeprefix("Question:").strip()
    gold = reader.gold_answer(row["target"])
    if gold is None:
        raise InputError(f'{name}: "target" has no line "Answer: <number>".')
    return _with_rationale(reader, name, question, gold, row["target"])


def _failures(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    gold = reader.gold_answer(row["gold_answer"])
    if gold is None:
        raise InputError(f'{name}: "gold_answer" = "{row["gold_answer"]}" is no number.')
    return _with_rationale(reader, name, row["question"].strip(), gold, row["teacher_cot"])


def _with_rationale(reader: RecordReader, name: str, question: str, gold: str, text: str) -> Record:
    found = reader.gold_answer(text)
    if reader.filter_teacher and not reader.equal(found, gold):
        raise InputError(f"{name}: the rationale's answer is {found}, the gold answer {gold}.")
    rationale = reader.parse(text)
    if not rationale.steps:
        raise InputError(f"{name}: the rationale has no steps.")
    thinking = rationale.thinking.removeprefix(_HEAD).strip()
    return Record(name, question, gold, rationale.steps, len(rationale.steps), thinking)


def _gym(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    gold = reader.gold_answer(row["answer"])
    if gold is None:
        raise InputError(f'{name}: "answer" = "{row["answer"]}" is no number.')
    return Record(name, row["question"].strip(), gold, (), difficulty=1)


# In the order in which "auto" tries them; a gym row has GSM8K's keys, so it must be named.
_LAYOUTS: dict[str, tuple[frozenset[str], Callable[[RecordReader, Any, str], Record]]] = {
    "bridge": (frozenset({"input", "target"}), _bridge),
    "failures": (frozenset({"question", "gold_answer", "teacher_cot"}), _failures),
    "gsm8k": (frozenset({"question", "answer"}), _gsm8k),
    "gym": (frozenset({"question", "answer"}), _gym),
}
