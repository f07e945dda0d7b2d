r"""A row of a file, whatever its format, to a `Record`: one function per layout.

    gsm8k      {"question": "…", "answer": "He sold 48/2 = <<48/2=24>>24 clips.\n#### 24"}
    bridge     {"input": "Question: …", "target": "Thinking…\n…\n\nStep 1: …\n\nAnswer: 24"}
    failures   {"question": "…", "gold_answer": "24", "teacher_cot": "Thinking…\n… Answer: 24", …}
    gym        {"question": "…", "answer": "24"}, without a rationale (reasoning-gym)
    math       {"problem": "…", "solution": "… \boxed{\frac{x}{3}}"}, and "answer" if there is one
    choice     {"question": "…", "choices": ["…", …], "answer": "B"}: see `cotjax.data.choice_rows`
    messages   {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}

`failures` is the layout of BRIDGE's stage3_error_samples.json, `math` that of MATH. "auto" goes by
the row's keys. In `math`, `choice` and `messages` the usual other names of keys will do: see
`ALIASES`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

from cotjax.data.choice_rows import read_choices
from cotjax.errors import InputError
from cotjax.interfaces import Record

Layout = Literal["auto", "gsm8k", "bridge", "failures", "gym", "math", "choice", "messages"]

# Where a text has its answer; see `cotjax.cot.gold_of`.
Place = Literal["answer", "line", "solution"]

ALIASES = {
    "problem": "question",
    "options": "choices",
    "answerKey": "answer",
    "correct": "answer",
    "explanation": "rationale",
    "conversations": "messages",
}
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant"}
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEAD = "Thinking…"
_ALONE = 'Set data.layout = "gym" if that is the answer alone.'
_CALLS = ("tool_calls", "function_call")


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
      gold: the answer of a reference text from its place there, None if there is none.
      parse: a solution in pieces; takes `kind` as `cotjax.cot.parse_rationale` does.
      equal: whether two answers are the same.
      answer: what an answer is called in errors.
      layout: which keys a row has.
      keep_calculator: leave GSM8K's `<<48/2=24>>` in the steps.
      filter_teacher: refuse a rationale that does not end in the gold answer.
      columns: a layout's key to the column of the file that holds it, where they differ.
      instead: what to do about a row of another layout, where no setting of [data] reads it.
    """

    gold: Callable[[str, Place], str | None]
    parse: Callable[..., ParsedRationale]
    equal: Callable[[str | None, str | None], bool]
    layout: Layout = "auto"
    answer: str = "number"
    keep_calculator: bool = False
    filter_teacher: bool = True
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instead: str = ""

    def record(self, row: Any, name: str) -> Record:
        """The record of a row.

        Args:
          row: a mapping.
          name: file and place; the record's id.

        Raises:
          InputError: the row is not of the layout, has no gold answer, cannot be split into
            steps, or its rationale ends in another answer than the gold one.
        """
        row = self._renamed(row, name) if isinstance(row, Mapping) else {}
        layout = self.layout if self.layout != "auto" else _layout_of(row)
        keys, make = _LAYOUTS[layout]
        given = row
        if layout in _ALIASED:
            row = _by_own_names(row)
        for key, kinds in sorted(keys.items(), reverse=True):
            if not _is_of(row.get(key), kinds):
                raise InputError(
                    f'{name}: needs a {_KIND_NAMES[kinds]} under "{key}". '
                    f"{self.instead or _instead(given, row.get(key), key)}"
                )
        answer = row.get("answer")
        if layout in _ANSWERED and answer is not None and not _is_of(answer, _ANSWER):
            instead = self.instead or _instead(given, answer, "answer")
            raise InputError(f'{name}: needs a {_KIND_NAMES[_ANSWER]} under "answer". {instead}')
        made = make(self, row, name)
        if not made.question.strip():
            raise InputError(f"{name}: the question is empty. Give a text.")
        return made

    def refuse_gold(self, name: str, key: str, text: Any) -> InputError:
        """The error about a text that should be an answer and is none."""
        shown = f"{text}" if len(f"{text}") <= 60 else f"{text}"[:57] + "..."
        hint = ""
        if self.answer == "number":
            hint = ' Set reward.verifier to "math", "choice" or "exact" if answers are no numbers.'
        return InputError(f'{name}: "{key}" = "{shown}" is no {self.answer}.{hint}')

    def _renamed(self, row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        """The row under the keys of its layout."""
        found = {key: _at(row, column) for key, column in self.columns.items()}
        for key, column in self.columns.items():
            if found[key] is _MISSING:
                there = ", ".join(f'"{one}"' for one in row)
                raise InputError(
                    f'{name}: has no column "{column}", which data.columns names for "{key}". It '
                    f"has {there or 'none'}. Set data.columns to what is there."
                )
        taken = set(self.columns.values()) - set(self.columns)
        # Whoever names single messages does not want all of them read.
        taken |= {"messages", "conversations"} & {one.split(".")[0] for one in taken}
        return {key: value for key, value in row.items() if key not in taken} | found


_MISSING = object()


def _at(row: Mapping[str, Any], path: str) -> Any:
    """What a row holds under a column, by name or path: `choices.text`, `messages.0.content`."""
    if path in row:
        return row[path]
    here: Any = row
    for step in path.split("."):
        if isinstance(here, Mapping):
            here = here.get(step, _MISSING)
        elif isinstance(here, list) and step.isdecimal() and int(step) < len(here):
            here = here[int(step)]
        else:
            return _MISSING
    return here


def _by_own_names(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row under the names of `math`, `choice` and `messages`, which go before their aliases."""
    own = {key: value for key, value in row.items() if key not in ALIASES}
    others = {ALIASES[key]: row[key] for key in reversed(list(row)) if key in ALIASES}
    return others | own


def _is_of(value: Any, kinds: "_Kinds") -> bool:
    """Whether a value is of these kinds; NaN, which stands for nothing, is no number."""
    return isinstance(value, kinds) and not isinstance(value, bool) and value == value


def _instead(row: Mapping[str, Any], value: Any, key: str) -> str:
    """What a row has in place of a value that a layout can read, and which setting reads it."""
    if value is None and key in row:
        return "It is null. Write one, or name another column in data.columns."
    if value is None:
        there = ", ".join(f'"{one}"' for one in row)
        there = f"It has {there:.200}" if there else "It is no object with keys"
        return f"{there}. Name its columns in data.columns, or set data.layout."
    if key == "answer" and _is_of(value, _ANSWER):  # of a layout that has the solution there
        return f"It is {value!r:.60}. {_ALONE}"
    return f"It is {value!r:.60}. Write one, or name another column in data.columns."


def _layout_of(row: Mapping[str, Any]) -> str:
    """The layout whose keys a row has; a row of none is refused as one of GSM8K."""
    if "messages" in row or "conversations" in row:
        return "messages"
    if "question" in row and ("choices" in row or "options" in row):
        return "choice"
    if "solution" in row and ("problem" in row or "####" not in str(row.get("answer", ""))):
        return "math"
    known = ("bridge", "failures", "gsm8k")
    return next((one for one in known if _LAYOUTS[one][0].keys() <= row.keys()), "gsm8k")


def _gsm8k(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    gold = reader.gold(row["answer"], "line") if "####" in row["answer"] else None
    if gold is None:
        hint = f" {reader.instead or _ALONE}" if "####" not in row["answer"] else ""
        raise InputError(f'{name}: "answer" has no line "#### <{reader.answer}>".{hint}')
    answer = row["answer"] if reader.keep_calculator else _CALCULATOR.sub("", row["answer"])
    steps = tuple(_lines(answer))
    return Record(name, row["question"].strip(), gold, steps, difficulty=len(steps))


def _lines(answer: str) -> Iterator[str]:
    for line in _LINE_END.split(answer):
        if line.strip() and not line.lstrip().startswith("####"):
            yield line.strip()


def _bridge(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    question = row["input"].strip().removeprefix("Question:").strip()
    gold = reader.gold(row["target"], "line")
    if gold is None:
        raise InputError(f'{name}: "target" has no line "Answer: <{reader.answer}>".')
    return _with_rationale(reader, name, question, gold, row["target"])


def _failures(reader: RecordReader, row: Mapping[str, str], name: str) -> Record:
    gold = _answer(reader, row, name, "gold_answer")
    return _with_rationale(reader, name, row["question"].strip(), gold, row["teacher_cot"])


def _with_rationale(reader: RecordReader, name: str, question: str, gold: str, text: str) -> Record:
    _check_teacher(reader, name, reader.gold(text, "solution"), gold)
    rationale = reader.parse(text)
    if not rationale.steps:
        raise InputError(f"{name}: the rationale has no steps.")
    thinking = rationale.thinking.removeprefix(_HEAD).strip()
    return Record(name, question, gold, rationale.steps, len(rationale.steps), thinking)


def _check_teacher(reader: RecordReader, name: str, found: str | None, gold: str) -> None:
    if reader.filter_teacher and not reader.equal(found, gold):
        raise InputError(f"{name}: the rationale's answer is {found}, the gold answer {gold}.")


def _answer(reader: RecordReader, row: Mapping[str, Any], name: str, key: str = "answer") -> str:
    """The gold answer that a key of its own holds, as text or as a number."""
    gold = reader.gold(str(row[key]), "answer")
    if gold is None:
        raise reader.refuse_gold(name, key, row[key])
    return gold


def _gym(reader: RecordReader, row: Mapping[str, Any], name: str) -> Record:
    gold = _answer(reader, row, name)
    return Record(name, row["question"].strip(), gold, (), difficulty=1)


def _math(reader: RecordReader, row: Mapping[str, Any], name: str) -> Record:
    solution = row["solution"]
    found = reader.gold(solution, "solution")
    if row.get("answer") is not None:
        gold = _answer(reader, row, name)
        if found is not None:
            _check_teacher(reader, name, found, gold)
    elif found is None:
        raise InputError(
            f'{name}: "solution" has no \\boxed{{<{reader.answer}>}}, and there is no "answer".'
        )
    else:
        gold = found
    rationale = reader.parse(solution, kind="numbered")
    if not rationale.steps:  # a text of whole sentences, as in MATH
        rationale = reader.parse(solution, kind="sentences")
    if not rationale.steps:
        raise InputError(f"{name}: the rationale has no steps.")
    steps = rationale.steps
    return Record(name, row["question"].strip(), gold, steps, len(steps), rationale.thinking)


def _choice(reader: RecordReader, row: Mapping[str, Any], name: str) -> Record:
    shown, letter = read_choices(row["choices"], row["answer"], name)
    gold = reader.gold(letter, "answer")
    if gold is None:
        raise reader.refuse_gold(name, "answer", letter)
    question = "\n".join([row["question"].strip(), *shown])
    text = row.get("rationale")
    if not isinstance(text, str) or not text.strip():
        return Record(name, question, gold, (), difficulty=1)
    if (found := reader.gold(text, "solution")) is not None:
        _check_teacher(reader, name, found, gold)
    rationale = reader.parse(text)
    steps = rationale.steps
    return Record(name, question, gold, steps, max(len(steps), 1), rationale.thinking)


def _messages(reader: RecordReader, row: Mapping[str, Any], name: str) -> Record:
    turns = [_turn(one, name) for one in row["messages"]]
    system = [text for role, text in turns if role == "system"]
    told = [role for role, _ in turns if role != "system"]
    if told != ["user", "assistant"] or [role for role, _ in turns][: len(system)] != (
        ["system"] * len(system)
    ):
        raise InputError(
            f'{name}: "messages" are {", ".join(role for role, _ in turns) or "none"}; one question'
            " of the user and one answer of the assistant are needed."
        )
    question, text = "\n\n".join([*system, turns[-2][1]]).strip(), turns[-1][1]
    if row.get("answer") is not None:
        gold = _answer(reader, row, name)
    else:
        gold = reader.gold(text, "solution")
    if gold is None:
        raise InputError(
            f'{name}: the assistant\'s message has no line "Answer: <{reader.answer}>".'
        )
    return _with_rationale(reader, name, question, gold, text)


def _turn(message: Any, name: str) -> tuple[str, str]:
    """Role and text of a message, by the keys of OpenAI or of ShareGPT."""
    message = message if isinstance(message, Mapping) else {}
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if calls := next((key for key in _CALLS if message.get(key)), ""):
        raise InputError(
            f'{name}: a message has "{calls}", and calls of tools are not read. Leave the row out, '
            "or write what they gave into the text."
        )
    if isinstance(content, list):  # parts, of which each needs to be a text
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise InputError(
            f'{name}: a message needs texts under "role" and "content"; it is {message!r:.80}.'
        )
    return _ROLES.get(role, role), content


_Kinds = type | tuple[type, ...]
_ANSWER: _Kinds = (str, int, float)
_KIND_NAMES: dict[_Kinds, str] = {
    str: "text",
    _ANSWER: "text or a number",
    list: "list",
    (list, dict): "list of texts",
}
_ALIASED = ("math", "choice", "messages")
_ANSWERED = ("math", "messages")  # whose answer may be missing
# What each layout needs, by key and type. A gym row has GSM8K's keys, so it must be named.
_LAYOUTS: dict[str, tuple[dict[str, _Kinds], Callable[[RecordReader, Any, str], Record]]] = {
    "bridge": ({"input": str, "target": str}, _bridge),
    "failures": ({"question": str, "gold_answer": str, "teacher_cot": str}, _failures),
    "gsm8k": ({"question": str, "answer": str}, _gsm8k),
    "gym": ({"question": str, "answer": _ANSWER}, _gym),
    "math": ({"question": str, "solution": str}, _math),
    "choice": ({"question": str, "choices": (list, dict), "answer": _ANSWER}, _choice),
    "messages": ({"messages": list}, _messages),
}
OPTIONAL = ("answer", "rationale")  # further keys that a layout reads where they are
