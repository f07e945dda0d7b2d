"""Random numbers for the records of a block, a few of which each needs, without a generator each.

Making a generator takes as long as masking and shuffling a record together.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

READY = 16  # numbers drawn for a record beforehand; it may take more


class Draws(Protocol):
    """The random numbers of one record; a NumPy generator serves too."""

    def random(self) -> float:
        """The next number, uniform in [0, 1)."""
        ...


class _Numbers:
    __slots__ = ("_next",)

    def __init__(self, numbers: Iterator[float]) -> None:
        self._next: Callable[[], float] = numbers.__next__

    def random(self) -> float:
        return self._next()


def draws(rng: np.random.Generator, count: int) -> Iterator[Draws]:
    """Numbers for `count` records; how many one takes does not change another's.

    Args:
      rng: of the block.
      count: records.
    """
    for row in rng.random((count, READY)).tolist():
        yield _Numbers(itertools.chain(row, _more(row)))


def _more(row: list[float]) -> Iterator[float]:
    """Numbers after a record's first ones, which seed them."""
    rng = np.random.default_rng([int(number * 2**53) for number in row[:4]])
    while True:
        yield rng.random()
