"""Rewards of the policy stages: correctness gates format, format gates brevity.

A short wrong answer never gains. The functions are pure, take strings, and return the reward
with its named parts; `outcome + steps + brevity` is the reward. They raise for impossible
settings but for no completion and no gold, whatever characters these hold.

Source: arXiv:2602.17686 (BRIDGE); the numbers are those of its released code.
"""

import math
from dataclasses import dataclass
from typing import Literal

from cotjax.cot.steps import Rationale, parse_rationale
from cotjax.cot.verifiers import NUMERIC, Verifier, is_right
from cotjax.errors import InputError

LengthUnit = Literal["words", "tokens"]

WRONG, ILL_FORMED, RIGHT = -2.0, -1.0, 1.0


@dataclass(frozen=True)
class Verdict:
    """What a completion says, whatever it earns.

    Attributes:
      answer: as the verifier extracts it; None if there is none.
      correct: whether that is the gold answer.
      rationale: the completion in pieces, split at numbered steps.
    """

    answer: str | None
    correct: bool
    rationale: Rationale

    @property
    def well_formed(self) -> bool:
        """See `is_well_formed`."""
        return bool(_with_text(self.rationale) and self.rationale.answer)


def read_completion(completion: str, gold: str, *, verifier: Verifier = NUMERIC) -> Verdict:
    r"""Reads a completion once, for every reward.

    Example:
      >>> read_completion("Step 1: 6 * 7\nAnswer: 42", "42").correct
      True
    """
    answer = verifier.extract(completion)
    correct = is_right(verifier, answer, gold)
    return Verdict(answer, correct, parse_rationale(completion, kind="numbered"))


def is_correct(completion: str, gold: str, *, verifier: Verifier = NUMERIC) -> bool:
    """Tells whether the completion's final answer is the gold one: for numbers, within 0.01."""
    return is_right(verifier, verifier.extract(completion), gold)


def count_steps(completion: str) -> int:
    """Returns the number of numbered steps (`Step k:`, or else `1.`, `2.`, ...) with a text."""
    return len(_with_text(parse_rationale(completion, kind="numbered")))


def is_well_formed(completion: str) -> bool:
    r"""Tells whether there is a numbered step with a text and, behind the last one, an answer line.

    An answer line holds `Answer:`, `Final Answer:` or `####` with a number, a formula or a letter;
    a bare `\boxed{}` or "the answer is" is none.
    """
    rationale = parse_rationale(completion, kind="numbered")
    return bool(_with_text(rationale) and rationale.answer)


def outcome_reward(
    completion: str, *, gold: str, length: int | None = None, verdict: Verdict | None = None
) -> tuple[float, dict[str, float]]:
    r"""Rewards what a completion says, and not how long it is.

        wrong −2;  right, but no step or no answer line −1;  otherwise 1

    Args:
      completion: the student's text, without the prompt.
      gold: the right answer. A gold that the verifier cannot read is never met.
      length: the completion's length, EOS excluded; None counts words. Only told.
      verdict: what the completion says, if it was read already; None: its number is compared.

    Returns:
      The reward, and its parts as for `completion_reward` (`steps` and `brevity` are 0).

    Example:
      >>> outcome_reward("Step 1: 6 * 7\nAnswer: 42", gold="42")[0]
      1.0
    """
    parts = _gate(completion, gold, _length(completion, "words", length), verdict)
    return _total(parts), parts


def completion_reward(
    completion: str,
    *,
    gold: str,
    teacher_steps: int,
    words_per_step: float = 35.0,
    monotone: bool = True,
    unit: LengthUnit = "words",
    length: int | None = None,
    verdict: Verdict | None = None,
) -> tuple[float, dict[str, float]]:
    r"""Rewards a completion of a masked rationale (stage 2).

        wrong answer                              −2
        right, but no step or no answer line      −1
        right and well-formed                      1 + 0.3·min(max(n0 − n, 0), 3) + r_len

    with n0 the teacher's steps, n the completion's, and r_len as in `completion_brevity`.

    Args:
      completion: the student's text, without the prompt.
      gold: the right number, as `gold_answer` gives it. A gold that is no number is never met.
      teacher_steps: n0.
      words_per_step: budget per teacher step, in `unit`; L = words_per_step · n0.
      monotone: False keeps the released upward jump behind L.
      unit: what length is measured in. Words are split at white space.
      length: the completion's length, EOS excluded; overrides counting words, and is needed for
        tokens.
      verdict: what the completion says, if it was read already; None: its number is compared.

    Returns:
      The reward, and its parts: `outcome` (−2, −1 or 1), `steps`, `brevity`; and for the record
      `correct`, `well_formed` (0 or 1), `num_steps` and `length`.

    Example:
      >>> completion_reward("Step 1: 6 * 7\nAnswer: 42", gold="42", teacher_steps=2)[0]
      1.349

    Raises:
      InputError: a negative `teacher_steps`, `words_per_step` not above 0, or no `length` for
        tokens.
    """
    if teacher_steps < 0:
        raise InputError(f"teacher_steps = {teacher_steps}: cannot be negative.")
    _check_positive("words_per_step", words_per_step)
    parts = _gate(completion, gold, _length(completion, unit, length), verdict)
    if parts["outcome"] == RIGHT:
        parts["steps"] = 0.3 * min(max(teacher_steps - parts["num_steps"], 0.0), 3.0)
        budget = words_per_step * teacher_steps
        parts["brevity"] = completion_brevity(parts["length"], budget, monotone=monotone)
    return _total(parts), parts


def completion_brevity(length: float, budget: float, *, monotone: bool = True) -> float:
    """Returns r_len of stage 2 for w = `length` and L = `budget`, in the same unit.

        w ≤ 0.8L         min(0.001·(0.8L − w), 0.2)
        0.8L < w ≤ L     −0.002·(w − 0.8L)
        w > L            max(−0.01·(w − L), −1)                  released, jumps up behind L
                         max(−0.002·0.2L − 0.01·(w − L), −1)     monotone, continues the slope

    Example:
      >>> [round(completion_brevity(w, 175, monotone=False), 4) for w in (140, 175, 176)]
      [0.0, -0.07, -0.01]
      >>> [round(completion_brevity(w, 175), 4) for w in (140, 175, 176)]
      [0.0, -0.07, -0.08]
    """
    target = 0.8 * budget
    if length <= target:
        return min(0.001 * (target - length), 0.2)
    if length <= budget:
        return -0.002 * (length - target)
    at_budget = 0.002 * (budget - target) if monotone else 0.0
    return max(-at_budget - 0.01 * (length - budget), -1.0)


def rewrite_reward(
    completion: str,
    *,
    gold: str,
    teacher_length: float,
    unit: LengthUnit = "words",
    length: int | None = None,
    verdict: Verdict | None = None,
) -> tuple[float, dict[str, float]]:
    r"""Rewards a rewrite of the teacher's rationale by how much shorter it is (stage 3).

        wrong −2;  right but ill-formed −1;  otherwise 1 + rewrite_brevity(ρ)

    with ρ = the completion's length / the teacher's length.

    Args:
      completion: the student's text, without the prompt.
      gold: the right number, as `gold_answer` gives it. A gold that is no number is never met.
      teacher_length: length of the teacher's rationale, in `unit`.
      unit: what both lengths are measured in. Words are split at white space.
      length: the completion's length, EOS excluded; overrides counting words, and is needed for
        tokens.
      verdict: what the completion says, if it was read already; None: its number is compared.

    Returns:
      The reward, and its parts as for `completion_reward` (`steps` is always 0), and `ratio`.

    Example:
      >>> rewrite_reward("Step 1: 6 * 7\nAnswer: 42", gold="42", teacher_length=14)[0]
      1.5

    Raises:
      InputError: `teacher_length` not above 0, or no `length` for tokens.
    """
    _check_positive("teacher_length", teacher_length)
    parts = _gate(completion, gold, _length(completion, unit, length), verdict)
    parts["ratio"] = parts["length"] / teacher_length
    if parts["outcome"] == RIGHT:
        parts["brevity"] = rewrite_brevity(parts["ratio"])
    return _total(parts), parts


def rewrite_brevity(ratio: float) -> float:
    """Returns the length part of stage 3 for ρ = `ratio`; continuous, within [−0.5, 0.8].

        ρ > 1          −0.5·min(ρ − 1, 1)
        0.8 < ρ ≤ 1     0
        0.5 < ρ ≤ 0.8   0.5·(0.8 − ρ)/0.3
        ρ ≤ 0.5         0.5 + 0.3·min((0.5 − ρ)/0.3, 1)

    Example:
      >>> [round(rewrite_brevity(ratio), 4) for ratio in (3.0, 1.2, 0.9, 0.65, 0.5, 0.1)]
      [-0.5, -0.1, 0.0, 0.25, 0.5, 0.8]
    """
    if ratio > 1:
        return -0.5 * min(ratio - 1, 1)
    if ratio > 0.8:
        return 0.0
    if ratio > 0.5:
        return 0.5 * (0.8 - ratio) / 0.3
    return 0.5 + 0.3 * min((0.5 - ratio) / 0.3, 1)


def _with_text(rationale: Rationale) -> list[str]:
    """The steps that say something: marks alone, as `**` or `...`, are none."""
    return [step for step in rationale.steps if any(map(str.isalnum, step))]


def _gate(completion: str, gold: str, length: float, verdict: Verdict | None) -> dict[str, float]:
    verdict = read_completion(completion, gold) if verdict is None else verdict
    correct, well_formed = verdict.correct, verdict.well_formed
    outcome = WRONG if not correct else RIGHT if well_formed else ILL_FORMED
    return {
        "outcome": outcome,
        "steps": 0.0,
        "brevity": 0.0,
        "correct": float(correct),
        "well_formed": float(well_formed),
        "num_steps": float(len(_with_text(verdict.rationale))),
        "length": length,
    }


def _total(parts: dict[str, float]) -> float:
    return parts["outcome"] + parts["steps"] + parts["brevity"]


def _length(completion: str, unit: LengthUnit, length: int | None) -> float:
    if length is not None:
        return float(length)
    if unit != "words":
        raise InputError(f'unit = "{unit}": needs length, the number of completion tokens.')
    return float(len(completion.split()))


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{name} = {value}: must be a number above 0.")
