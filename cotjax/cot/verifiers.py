"""Verifiers: how an answer is read out of a text, and when two answers are the same.

`VERIFIERS` is the table of those that `reward.verifier` names.
"""

from dataclasses import dataclass
from typing import Protocol

from cotjax.cot.answers import answers_equal, extract_answer, gold_answer


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
    """Answers are numbers, the same if they differ by less than 0.01."""

    def extract(self, text: str) -> str | None:
        """See `extract_answer`."""
        return extract_answer(text)

    def equal(self, answer: str, gold: str) -> bool:
        """See `answers_equal`."""
        return answers_equal(answer, gold)


NUMERIC = Numeric()
VERIFIERS: dict[str, Verifier] = {"numeric": NUMERIC}


def gold_of(verifier: Verifier, text: str) -> str | None:
    """The gold answer that a reference text ends in; None if there is none.

    For numbers see `gold_answer`. Other verifiers have what follows the last `####`; without one,
    what they extract; and a text of one line is an answer itself.

    Example:
      >>> gold_of(NUMERIC, "It is 6 * 7. #### 42"), gold_of(NUMERIC, "Paris")
      ('42', None)
    """
    if verifier is NUMERIC:
        return gold_answer(text)
    if "####" in text:
        answer = text.rpartition("####")[2].strip().partition("\n")[0].strip()
    else:
        answer = verifier.extract(text)
        if answer is None and "\n" not in text.strip():
            answer = text.strip()
    return answer if answer else None


def is_right(verifier: Verifier, answer: str | None, gold: str) -> bool:
    """Whether an extracted answer is the gold one; no answer is not.

    Example:
      >>> is_right(NUMERIC, "42.0", "42"), is_right(NUMERIC, None, "42")
      (True, False)
    """
    return answer is not None and bool(verifier.equal(answer, gold))
