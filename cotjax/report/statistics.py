"""Is a difference more than chance? By seed and by question, always paired."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

DRAWS = 10_000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; the ends are NaN where too little is known."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether chance alone would rarely give such a mean."""
        return self.low > 0 or self.high < 0


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of independent values, as of seeds, with its interval by Student's t.

    Example:
      >>> found = t_interval([1.0, 2.0, 3.0])
      >>> found.mean, round(found.low, 3), round(found.high, 3)
      (2.0, -0.484, 4.484)
    """
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    from scipy import special  # here: it takes a quarter of a second to import, stats three

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(special.stdtrit(len(values) - 1, 0.975)) * error
    return Interval(mean, mean - reach, mean + reach)


def bootstrap_interval(differences: Sequence[float], seed: int = 0) -> Interval:
    """The mean of paired differences, as of questions, with its percentile interval.

    Args:
      differences: one for each pair, [n].
      seed: of the draws.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return Interval(float(values.mean()) if len(values) else math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def mcnemar(one: Sequence[bool], other: Sequence[bool]) -> float:
    """The exact two-sided p-value that two answer sheets to the same questions are equally right.

    Only questions that exactly one of them answers count; each is a fair coin if they are equal.

    Args:
      one: right or wrong, by question.
      other: the same questions in the same order.

    Raises:
      ValueError: not the same number of questions.

    Example:
      >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
      0.03125

    Source: McNemar 1947, Psychometrika 12:153–157, by the binomial distribution.
    """
    pairs = list(zip(one, other, strict=True))
    gained = sum(a and not b for a, b in pairs)
    lost = sum(b and not a for a, b in pairs)
    differ = gained + lost
    ways = tail = 1
    for heads in range(min(gained, lost)):
        ways = ways * (differ - heads) // (heads + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**differ)  # of integers, so that only the quotient is rounded


def area_under(shares: Sequence[float], values: Sequence[float]) -> float:
    """The mean height of a learning curve, by trapezoids between shares of the budget.

    Example:
      >>> area_under([0.0, 0.5, 1.0], [0.0, 1.0, 1.0])
      0.75
    """
    if len(shares) < 2:
        return math.nan
    return float(np.trapezoid(values, shares) / (shares[-1] - shares[0]))
