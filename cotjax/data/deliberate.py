"""Deliberate rationales: solutions of the built-in problems by a teacher that thinks aloud.

Each step is the right one, in the verbose style, with digressions around it as reasoning models
write them, each by its own rate:

    restate    The question is how many pens Mia has now.
    recap      So far Mia has 12 pens.
    wrong_try  12+3=15. Wait, no.                    (up to two, by another operation, a slip or
                                                      a number from elsewhere)
    what_if    What if it were 4? Then 12-4=8. But it is 3.
    check      Check: 9+3=12.
    final      Check all of it: 7+5=12, 12-3=9.      (behind the last step)

A student that imitates such text learns to make the mistakes too, and not always to take them back.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

TRIES = 2  # wrong ones before a step, at most


@dataclass(frozen=True)
class Rates:
    """How often each digression is made, 0–1.

    Attributes:
      wrong_try: before a step, up to two times.
      what_if: behind a step; left out where the other number gives none in 1..99, one in six.
      check: behind a step.
      recap: before a step, but for the first one.
      restate: before a step.
      final: behind the last step.
    """

    wrong_try: float
    what_if: float
    check: float
    recap: float
    restate: float
    final: float


@dataclass(frozen=True)
class Told:
    """One step of a problem, to be told.

    Attributes:
      name: of the person.
      things: of which there are some.
      before: how many before the step.
      after: how many behind it.
      sign: of the operation.
      inverse: the sign that undoes it.
      operand: its other number.
      words: what the person does.
    """

    name: str
    things: str
    before: int
    after: int
    sign: str
    inverse: str
    operand: int
    words: str

    @property
    def equation(self) -> str:
        """Such as 7+5=12."""
        return f"{self.before}{self.sign}{self.operand}={self.after}"


# The value after a step by its sign, or None where there is none.
Apply = Callable[[str, int, int], int | None]


def deliberate_steps(
    steps: tuple[Told, ...], rates: Rates, rng: random.Random, apply: Apply
) -> tuple[str, ...]:
    """The steps as a teacher tells them who thinks aloud.

    Args:
      steps: of the solution.
      rates: of the digressions.
      rng: decides which are made.
      apply: the arithmetic of wrong tries and what-ifs.
    """
    told = [_step(steps, place, rates, rng, apply) for place in range(len(steps))]
    if rng.random() < rates.final:
        told[-1] += f" Check all of it: {', '.join(step.equation for step in steps)}."
    return tuple(told)


def _step(
    steps: tuple[Told, ...], place: int, rates: Rates, rng: random.Random, apply: Apply
) -> str:
    step, parts = steps[place], list[str]()
    if rng.random() < rates.restate:
        parts.append(f"The question is how many {step.things} {step.name} has now.")
    if place and rng.random() < rates.recap:
        parts.append(f"So far {step.name} has {step.before} {step.things}.")
    for _ in range(TRIES):
        if rng.random() < rates.wrong_try:
            parts.append(f"{_wrong(steps, place, rng, apply)}. Wait, no.")
    parts.append(f"{step.name} has {step.before} {step.things} and {step.words}. {step.equation}.")
    if rng.random() < rates.what_if:
        parts += _what_if(step, rng, apply)
    if rng.random() < rates.check:
        parts.append(f"Check: {step.after}{step.inverse}{step.operand}={step.before}.")
    return " ".join(parts)


def _wrong(steps: tuple[Told, ...], place: int, rng: random.Random, apply: Apply) -> str:
    """An equation that is not the step's: of another operation, with a slip, or another number."""
    step = steps[place]
    kind, others = below(rng, 3), [one for one in "+-*/" if one != step.sign]
    if kind == 0:
        sign = others[below(rng, 3)]
        result = apply(sign, step.before, step.operand)
        if result is not None:
            return f"{step.before}{sign}{step.operand}={result}"
    if kind == 1:
        operand = steps[below(rng, len(steps))].operand
        result = apply(step.sign, step.before, operand)
        if result is not None and operand != step.operand:
            return f"{step.before}{step.sign}{operand}={result}"
    slip = step.after + (1 + below(rng, 3)) * (1 if rng.random() < 0.5 else -1)
    slip = slip if slip > 0 else step.after + 1
    return f"{step.before}{step.sign}{step.operand}={slip}"


def _what_if(step: Told, rng: random.Random, apply: Apply) -> list[str]:
    other = step.operand + (1 if rng.random() < 0.5 else -1)
    result = apply(step.sign, step.before, other) if other > 1 else None
    if result is None:
        return []
    equation = f"{step.before}{step.sign}{other}={result}"
    return [f"What if it were {other}? Then {equation}. But it is {step.operand}."]


def below(rng: random.Random, size: int) -> int:
    """A number below `size`; `random()` is the one method whose stream Python guarantees."""
    return int(rng.random() * size)
