"""How hard a problem is, read off its rationale: the signals that order a curriculum."""

from collections.abc import Callable
from typing import Literal

from cotjax.cot.asides import CALCULATOR, OPERATION, without_asides
from cotjax.cot.steps import Rationale, parse_rationale
from cotjax.errors import InputError

Difficulty = Literal["cot_steps", "cot_tokens", "cot_operations"]


def count_words(text: str) -> int:
    """Returns the number of words, split at white space."""
    return len(text.split())


def cot_difficulty(
    rationale: Rationale | str,
    *,
    signal: Difficulty = "cot_steps",
    count_tokens: Callable[[str], int] = count_words,
) -> float:
    r"""Returns a difficulty of a problem from the steps of its rationale; more is harder.

    Thinking and answer do not count: the steps are what a student learns to write.

    Args:
      rationale: parsed, or text that `parse_rationale` splits by `kind="auto"`.
      signal: cot_steps counts the steps that add something, and not those that only check, restate
        or are taken back, see `without_asides`; cot_tokens sums `count_tokens` over all steps;
        cot_operations counts arithmetic operations in what the steps add: `+ - * / ^` between
        operands, `×`, `÷`, and the LaTeX commands `\times \div \cdot \frac \sqrt`. GSM8K's
        `<<6*7=42>>` marks are not counted beside the equation that they repeat.
      count_tokens: length of a text; words, unless a tokenizer is given.

    Example:
      >>> text = "Step 1: 6 * 7 = <<6*7=42>>42\nStep 2: 42 - 2 = 40\nAnswer: 40"
      >>> [cot_difficulty(text, signal=s) for s in ("cot_steps", "cot_tokens", "cot_operations")]
      [2.0, 10.0, 2.0]

    Raises:
      InputError: an unknown signal.
    """
    steps = (parse_rationale(rationale) if isinstance(rationale, str) else rationale).steps
    if signal == "cot_tokens":
        return float(sum(count_tokens(step) for step in steps))
    if signal == "cot_steps":
        return float(len(without_asides(steps)))
    if signal == "cot_operations":
        told = (CALCULATOR.sub("", step) for step in without_asides(steps))
        return float(sum(len(OPERATION.findall(step)) for step in told))
    raise InputError(
        f'signal = "{signal}": unknown. Use "cot_steps", "cot_tokens" or "cot_operations".'
    )
