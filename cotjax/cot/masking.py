"""Masks and shuffles the steps of a rationale, reproducibly.

Every draw is one `rng.random()` in [0, 1): `random.Random(seed)` and
`numpy.random.default_rng(seed)` both serve. The results render in cotjax's own layout.
"""

import re
from collections.abc import Sequence
from typing import Literal, Protocol

from cotjax.cot.steps import Rationale
from cotjax.errors import InputError

MaskMode = Literal["scattered", "contiguous"]
Granularity = Literal["step", "equation", "number"]

_NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+")
_MATH = re.compile(r"\\\[|\\\]|\\\(|\\\)|\$\$|<<|>>")
_CLOSES = {"\\[": "\\]", "\\(": "\\)", "$$": "$$", "<<": ">>"}
_ARITHMETIC = re.compile(r"[0-9$£€(.][0-9 $£€%.,()+\-−*/×÷=]*")
_EQUATION = re.compile(r"[0-9)%] ?= ?[-−$£€(]*\.?[0-9]")


class RandomSource(Protocol):
    """What draws: `random.Random` and `numpy.random.Generator` fit."""

    def random(self) -> float:
        """Returns the next number, uniform in [0, 1)."""
        ...


def completion_mask_count(num_steps: int) -> int:
    """Returns how many of n steps are masked in BRIDGE's masked completion.

        m = min(max(3, ⌊n / 2⌋), n − 1),   and 0 for n < 2

    Example:
      >>> [completion_mask_count(n) for n in range(10)]
      [0, 0, 1, 2, 3, 3, 3, 3, 4, 4]

    Source: arXiv:2602.17686 (BRIDGE), stage 2.
    """
    if num_steps < 2:
        return 0
    return min(max(3, num_steps // 2), num_steps - 1)


def mask_steps(
    rationale: Rationale,
    *,
    rng: RandomSource,
    count: int = 1,
    probability: float = 1.0,
    mode: MaskMode = "scattered",
    granularity: Granularity = "step",
    keep_first: bool = False,
    keep_last: bool = False,
    mask_token: str = "[MASK]",
) -> tuple[Rationale, tuple[int, ...]]:
    r"""Replaces steps, or the equations or numbers in them, by a mask token.

    BRIDGE's stage 1 is `count=1, probability=0.7`; its stage 2 is
    `count=completion_mask_count(len(rationale.steps))`. One draw decides whether to mask at all,
    the next ones where, so equal seeds give equal masks.

    Args:
      rationale: what to mask; thinking and answer stay as they are.
      rng: source of the draws.
      count: steps to mask; all eligible ones if there are fewer.
      probability: chance that anything is masked.
      mode: "scattered" chooses the steps uniformly without replacement, "contiguous" chooses
        neighbours among the eligible steps, with a uniform start.
      granularity: what of a chosen step is masked. "step": all of it. "equation": every closed
        `\[ \]`, `\( \)`, `$$ $$`, `<< >>` that holds an equals sign, and every plain
        `6 * 7 = 42`. "number": every number. Steps without an equation or number are not eligible.
      keep_first: never choose the first step.
      keep_last: never choose the last step.
      mask_token: the replacement; also right next to text, so it should be one that stands out.

    Returns:
      The masked rationale, with as many steps as before, and the ascending indices of the steps
      that were masked.

    Example:
      >>> import random
      >>> r = Rationale(steps=("6 * 7 = 42", "so 42"), answer="42")
      >>> mask_steps(r, rng=random.Random(0), granularity="number", count=2)[0].steps
      ('[MASK] * [MASK] = [MASK]', 'so [MASK]')

    Raises:
      InputError: a negative count, a probability outside [0, 1], an unknown mode or granularity.
    """
    _check(count, probability, mode, granularity)
    steps = list(rationale.steps)
    covered: list[str | None] = [mask_token] * len(steps)
    if granularity != "step":
        covered = [_cover(step, granularity, mask_token) for step in steps]
    first, stop = int(keep_first), len(covered) - int(keep_last)
    eligible = [index for index in range(first, stop) if covered[index] is not None]
    chosen: Sequence[int] = ()
    if rng.random() < probability:
        count = min(count, len(eligible))
        if mode == "scattered":
            chosen = sorted(_permutation(eligible, rng)[:count])
        else:
            start = int(rng.random() * (len(eligible) - count + 1))
            chosen = eligible[start : start + count]
    for index in chosen:
        steps[index] = covered[index] or ""
    return Rationale(rationale.thinking, tuple(steps), rationale.answer), tuple(chosen)


def shuffle_steps(rationale: Rationale, *, rng: RandomSource) -> tuple[Rationale, tuple[int, ...]]:
    """Puts the steps in a uniformly random order.

    Returns:
      The shuffled rationale, and for each of its steps the index that it had before.

    Example:
      >>> import random
      >>> shuffled, order = shuffle_steps(Rationale(steps=("a", "b", "c")), rng=random.Random(1))
      >>> shuffled.steps == tuple("abc"[index] for index in order)
      True
    """
    order = _permutation(range(len(rationale.steps)), rng)
    steps = tuple([rationale.steps[index] for index in order])
    return Rationale(rationale.thinking, steps, rationale.answer), tuple(order)


def _check(count: int, probability: float, mode: str, granularity: str) -> None:
    if count < 0:
        raise InputError(f"count = {count}: cannot mask fewer than 0 steps. Set count >= 0.")
    if not 0 <= probability <= 1:
        raise InputError(f"probability = {probability}: not a chance. Set it within [0, 1].")
    if mode not in ("scattered", "contiguous"):
        raise InputError(f'mode = "{mode}": unknown. Set mode to "scattered" or "contiguous".')
    if granularity not in ("step", "equation", "number"):
        raise InputError(
            f'granularity = "{granularity}": unknown. Set it to "step", "equation" or "number".'
        )


def _permutation(values: Sequence[int], rng: RandomSource) -> list[int]:
    """Fisher and Yates's shuffle, by `rng.random()` alone so that every source gives it."""
    order = list(values)
    for last in range(len(order) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def _cover(step: str, granularity: str, mask_token: str) -> str | None:
    """Returns the step with its chosen parts masked, None if it has no such part."""
    spans = _equations(step) if granularity == "equation" else _spans(_NUMBER, step)
    if not spans:
        return None
    pieces, position = [], 0
    for begin, end in spans:
        pieces += [step[position:begin], mask_token]
        position = end
    return "".join([*pieces, step[position:]])


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


def _equations(step: str) -> list[tuple[int, int]]:
    """Returns the spans of delimited math with an `=`, and of plain arithmetic outside of math."""
    spans, opener, position = [], None, 0
    for token in _MATH.finditer(step):
        if opener and token[0] == _CLOSES[opener[0]]:
            spans += _plain_equations(step, position, opener.start())
            if "=" in step[opener.start() : token.end()]:
                spans.append((opener.start(), token.end()))
            opener, position = None, token.end()
        elif token[0] in _CLOSES:
            opener = token
    return spans + _plain_equations(step, position, len(step))


def _plain_equations(step: str, begin: int, end: int) -> list[tuple[int, int]]:
    spans = []
    for match in _ARITHMETIC.finditer(step, begin, end):
        text = match[0].rstrip(" .,($£€+-−*/×÷=")
        if _EQUATION.search(text):
            spans.append((match.start(), match.start() + len(text)))
    return spans
