"""Packed rows of a curriculum: a pool of examples per stage, in an order fixed by the seed.

Which example comes when is a function of (seed, stage, place) alone, so two numbers are enough to
resume, and every choice of teachers sees the same data.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cotjax.interfaces import TokenBatch

Example = dict[str, np.ndarray]  # tokens, targets, weight, of one length
Direction = Literal["easy_first", "hard_first", "shuffled"]
Pacing = Literal["contiguous", "cumulative"]


@dataclasses.dataclass(frozen=True)
class Span:
    """Where an example lies in a batch of rows: `row`, columns `start` to `stop`."""

    example: int
    row: int
    start: int
    stop: int


def stage_pools(
    bucket: np.ndarray, *, direction: Direction, pacing: Pacing
) -> tuple[np.ndarray, ...]:
    """The examples of each stage, as indices.

    Args:
      bucket: [n] bucket of each example, 0 … M − 1, 0 the easiest.
      direction: buckets from easy to hard, from hard to easy, or all examples in every stage.
      pacing: a stage has one bucket, or all buckets up to it.

    Returns:
      M arrays, for M stages.

    Example:
      >>> stage_pools(np.array([1, 0]), direction="easy_first", pacing="cumulative")
      (array([1]), array([0, 1]))
    """
    order = list(range(int(bucket.max()) + 1))
    if direction == "shuffled":
        return tuple(np.arange(len(bucket)) for _ in order)
    if direction == "hard_first":
        order.reverse()
    reach = {"contiguous": lambda m: order[m : m + 1], "cumulative": lambda m: order[: m + 1]}
    return tuple(np.flatnonzero(np.isin(bucket, reach[pacing](m))) for m in range(len(order)))


def stage_starts(pools: Sequence[np.ndarray], steps: int) -> tuple[int, ...]:
    """The first step of each stage: steps are shared out in proportion to the data.

    Example:
      >>> stage_starts((np.arange(2), np.arange(4)), steps=60)
      (0, 20)
    """
    sizes = np.cumsum([0, *(len(pool) for pool in pools)])
    return tuple(int(start) for start in sizes[:-1] * steps // sizes[-1])


class CurriculumRows:
    """Batches of packed rows from the pool of a stage.

    Args:
      encode: index of an example to its arrays.
      pools: the examples of each stage.
      replay: share of examples that are drawn from the pools of earlier stages.
      seed: of the order.
      rows: B.
      length: S, tokens a row.
    """

    def __init__(
        self,
        encode: Callable[[int], Example],
        pools: Sequence[np.ndarray],
        *,
        replay: float,
        seed: int,
        rows: int,
        length: int,
    ) -> None:
        self._encode, self.pools = encode, tuple(pools)
        self._replay, self._seed = replay, seed
        self._rows, self._length = rows, length
        self._stage, self._place = 0, 0
        self._order: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty(0, int))

    def example_at(self, stage: int, place: int) -> int:
        """The example at a place of a stage's endless sequence.

        Each pass through a pool has another order; with replay, some places hold an example of an
        earlier stage instead.
        """
        pool = self.pools[stage]
        if stage and self._replay:
            rng = np.random.default_rng((self._seed, 1, stage, place))
            if rng.random() < self._replay:
                return int(rng.choice(np.concatenate(self.pools[:stage])))
        epoch, place = divmod(place, len(pool))
        if self._order[0] != (stage, epoch):
            rng = np.random.default_rng((self._seed, 0, stage, epoch))
            self._order = (stage, epoch), rng.permutation(pool)
        return int(self._order[1][place])

    def take(self, stage: int, count: int) -> list[int]:
        """The next `count` examples of a stage, as indices."""
        self._enter(stage)
        self._place += count
        return [self.example_at(stage, self._place - count + i) for i in range(count)]

    def next_rows(self, stage: int) -> tuple[TokenBatch, list[Span]]:
        """The next batch of a stage: as many examples as fit, each in the first row with room."""
        self._enter(stage)
        examples = []
        free = [self._length] * self._rows
        while True:
            index = self.example_at(stage, self._place)
            example = self._encode(index)
            if not _put(free, len(example["tokens"])):
                return pack(examples, self._rows, self._length)
            examples.append((index, example))
            self._place += 1

    def _enter(self, stage: int) -> None:
        if stage != self._stage:
            self._stage, self._place = stage, 0

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint."""
        return {"stage": self._stage, "place": self._place}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from where another stream stood."""
        self._stage, self._place = state["stage"], state["place"]


def _put(free: list[int], size: int) -> list[int]:
    """The first row with room, as a list of at most one; it has less room afterwards."""
    row = [row for row, room in enumerate(free) if room >= size][:1]
    for one in row:
        free[one] -= size
    return row


def pack(
    examples: Sequence[tuple[int, Example]], rows: int, length: int
) -> tuple[TokenBatch, list[Span]]:
    """Puts each example into the first row with room for it; those that fit in none are left out.

    Args:
      examples: index and arrays of each.
      rows: B.
      length: S.

    Returns:
      the rows on the host, and where each example lies.
    """
    batch: dict[str, Any] = {key: np.zeros((rows, length), np.int32) for key in _INTEGERS}
    batch["weight"] = np.zeros((rows, length), np.float32)
    free, spans, number = [length] * rows, [], [0] * rows
    for index, example in examples:
        size = len(example["tokens"])
        for row in _put(free, size):
            stop = length - free[row]
            span = Span(index, row, stop - size, stop)
            inside = row, slice(span.start, span.stop)
            number[row] += 1
            for key in ("tokens", "targets", "weight"):
                batch[key][inside] = example[key]
            batch["segment"][inside] = number[row]
            batch["positions"][inside] = np.arange(size)
            spans.append(span)
    return TokenBatch(**batch), spans


_INTEGERS = ("tokens", "targets", "segment", "positions")
