r"""Verifiers: how an answer is read out of a text, and when two answers are the same.

    numeric   numbers, exactly, within a tolerance              24        $1,234.50
    math      expressions, sets, intervals, by math-verify      \frac{x}{3}    (1, 2]
    choice    a letter A to J                                    B         (b) Paris
    exact     a text; case, white space and marks are nothing    Paris     **paris**.

`VERIFIERS` is the table of those that `reward.verifier` and `eval.verifier` name.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from cotjax.cot.answers import (
    answers_equal,
    extract_answer,
    find_answer,
    gold_answer,
    gold_place,
)
from cotjax.cot.choices import read_choice
from cotjax.cot.math_process import PROCESS
from cotjax.cot.numbers import HEDGED, Hedged, is_negated, read_number
from cotjax.cot.thinking import spoken

# Where a reference text has its answer: it is one, or ends in one; its answer line alone may state
# it; or its last \boxed{} may too.
Place = Literal["answer", "line", "solution"]
LONG = 2000  # characters of an expression or a text


class Verifier(Protocol):
    """Reads answers and compares them."""

    def extract(self, text: str, /) -> str | None:
        """The final answer of a completion; None if it gives none."""
        ...

    def equal(self, answer: str, gold: str, /) -> bool:
        """Whether an answer is the gold one."""
        ...


@dataclass(frozen=True)
class Numeric:
    """Answers are numbers, the same if they differ by less than a tolerance.

    Attributes:
      tolerance: see `answers_equal`.
    """

    tolerance: float | None = None

    def extract(self, text: str) -> str | None:
        """See `extract_answer`."""
        return extract_answer(text)

    def equal(self, answer: str, gold: str) -> bool:
        """See `answers_equal`."""
        return answers_equal(answer, gold, tolerance=self.tolerance)

    def read(self, phrase: str) -> str | None:
        """The number of a reference's answer."""
        return gold_answer(phrase)


@dataclass(frozen=True)
class Math:
    r"""Answers are expressions, the same if math-verify says so within a few seconds.

    A comparison that takes longer counts as different, whatever the answer, and the first one is
    said on the standard error; see `cotjax.cot.math_process`.
    """

    def extract(self, text: str) -> str | None:
        r"""The expression behind the last marker.

        Example:
          >>> Math().extract(r"So: \boxed{\frac{x}{3}}."), Math().extract("Answer: not 24")
          ('\\frac{x}{3}', None)
        """
        return find_answer(text, _read_expression, window=LONG)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether two expressions are the same."""
        return _same_expression(answer, gold)

    def read(self, phrase: str) -> str | None:
        """The expression of a reference's answer."""
        found = _read_expression(phrase)
        return None if isinstance(found, Hedged) else found


@dataclass(frozen=True)
class Choice:
    """Answers are letters, A to J; see `read_choice`."""

    def extract(self, text: str) -> str | None:
        r"""The letter behind the last marker.

        Example:
          >>> Choice().extract("Step 1: a\nAnswer: (b) Paris"), Choice().extract("Answer: A or B")
          ('B', None)
        """
        return find_answer(text, read_choice)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether both are one letter."""
        return answer == gold

    def read(self, phrase: str) -> str | None:
        """The letter of a reference's answer."""
        found = read_choice(phrase)
        return None if isinstance(found, Hedged) else found


@dataclass(frozen=True)
class Exact:
    """Answers are texts; case, white space, quotes, bold and a full stop do not count."""

    def extract(self, text: str) -> str | None:
        r"""The rest of the line behind the last marker.

        Example:
          >>> Exact().extract("Step 1: a\nAnswer: **Paris**."), Exact().equal("paris", "Paris")
          ('Paris', True)
        """
        return find_answer(text, self.read, window=LONG)

    def equal(self, answer: str, gold: str) -> bool:
        """Whether the texts are the same when both are normalised."""
        return _normal(answer) == _normal(gold)

    def read(self, phrase: str) -> str | None:
        """The text of a reference's answer."""
        return _bare(phrase) or None


BuiltIn = Numeric | Math | Choice | Exact
NUMERIC = Numeric()
VERIFIERS: dict[str, Callable[[], BuiltIn]] = {
    "numeric": Numeric,
    "math": Math,
    "choice": Choice,
    "exact": Exact,
}


def gold_of(verifier: Verifier, text: str, place: Place = "answer") -> str | None:
    r"""The gold answer of a reference text; None if there is none.

    It is read behind the last `####` or `Answer:` and nowhere else, as the verifier reads answers.

    Args:
      verifier: built in or a user's own, which has what follows the last `####`, and without one
        what it extracts.
      text: the reference.
      place: "line": as above. "solution": the last of these or `\boxed{}`. "answer": a text of one
        line without them is an answer itself.

    Example:
      >>> gold_of(NUMERIC, "6 * 7. #### 42"), gold_of(NUMERIC, "Paris"), gold_of(Exact(), "Paris")
      ('42', None, 'Paris')
      >>> gold_of(NUMERIC, "We get 5"), gold_of(NUMERIC, "We get 5", "line")
      ('5', None)
      >>> gold_of(Math(), r"so $x = \boxed{\frac{1}{2}}$.", "solution")
      '\\frac{1}{2}'
    """
    text = spoken(text) or ""
    one_line = text.strip() if place == "answer" and "\n" not in text.strip() else None
    if not isinstance(verifier, BuiltIn):
        if "####" in text:
            answer = text.rpartition("####")[2].strip().partition("\n")[0].strip()
        else:
            answer = verifier.extract(text) or one_line
        return answer or None
    window = 300 if isinstance(verifier, Numeric) else LONG
    phrase = gold_place(text, boxed=place == "solution", window=window)
    if phrase is None:
        phrase = one_line
    return verifier.read(phrase) if phrase and len(phrase) <= window else None


def is_right(verifier: Verifier, answer: str | None, gold: str) -> bool:
    """Whether an extracted answer is the gold one; no answer is not.

    Example:
      >>> is_right(NUMERIC, "42.0", "42"), is_right(NUMERIC, None, "42")
      (True, False)
    """
    return answer is not None and bool(verifier.equal(answer, gold))


_PROSE = re.compile(r"(?i)\.\s+(?:I hope|This|So|Therefore|Hence|The)\b.*")
_DOLLAR, _DOLLARS = re.compile(r"(?<!\\)\$"), re.compile(r"(?<!\\)\$([^$]+)(?<!\\)\$")
_WRAPPED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("`", "`"))
_WORDS = re.compile(r"[^\W\d_]{3,}(?:[ '’-][^\W\d_]+)*")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s?\{([^{}]*)\}")


def _read_expression(phrase: str) -> str | Hedged | None:
    text = phrase.strip()
    if not text.startswith("\\"):  # a displayed formula may have several lines
        text = _PROSE.sub("", text.partition("\n")[0])
    formulas = _DOLLARS.findall(text)
    text = _bare(formulas[0] if len(formulas) == 1 else _DOLLAR.sub("", text))
    if is_negated(phrase.partition("\n")[0]):
        return HEDGED
    return text if any(map(str.isalnum, text)) else None


def _bare(text: str) -> str:
    """Without what stands around an answer: bold, quotes, dollars, a full stop."""
    text, before = text.strip(), None
    while text != before:
        before = text
        text = text.strip().rstrip(".。").strip("\"“”'’ \t").removeprefix("**").removesuffix("**")
        for opens, closes in _WRAPPED:
            inner = text[len(opens) : -len(closes)]
            if len(text) > len(opens + closes) and text == opens + inner + closes:
                text = inner if opens not in inner else text
    return text


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", _bare(_TEXT.sub(r"\1", text))).casefold()
    return " ".join(text.split())


@functools.lru_cache(2**14)
def _same_expression(answer: str, gold: str) -> bool:
    first, second = _normal(answer), _normal(gold)
    if first == second:
        return True
    if _WORDS.fullmatch(second):  # math-verify reads letters as factors: live = evil
        return False
    numbers = _plain_number(first), _plain_number(second)
    if None not in numbers and numbers[0] == numbers[1]:
        return True
    before, same = PROCESS.timeouts, PROCESS.equal(answer, gold)
    if same is None and not before:
        print(
            f"verifier math: comparing {answer[:80]!r} with {gold[:80]!r} took longer than "
            f"{PROCESS.limit:g} s, so they count as different; further ones are not told.",
            file=sys.stderr,
        )
    return bool(same)


def _plain_number(text: str) -> Fraction | None:
    plain = re.fullmatch(r"[-+−]?\s?[0-9][0-9.,]*(?:/[0-9]+)?", text)
    return read_number(text, evaluate=True) if plain else None
