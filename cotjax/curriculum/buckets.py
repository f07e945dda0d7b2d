"""The buckets of a curriculum: which examples each step draws from, in an order fixed by the seed.

Which example comes when is a function of (seed, bucket, place) alone, so two numbers are enough to
resume, and runs with other teachers see the same data.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cotjax.data.packing import Example, Span, first_fit, pack_in_order
from cotjax.interfaces import TokenBatch

Direction = Literal["easy_first", "hard_first", "shuffled"]
Pacing = Literal["contiguous", "cumulative"]


def bucket_pools(
    bucket: np.ndarray, *, direction: Direction, pacing: Pacing
) -> tuple[np.ndarray, ...]:
    """The examples that training draws from in each bucket's turn, as indices.

    Args:
      bucket: [n] bucket of each example, 0 … M − 1, 0 the easiest.
      direction: buckets from easy to hard, from hard to easy, or all examples at every turn.
      pacing: a turn has one bucket, or all buckets up to it.

    Returns:
      M arrays, in the order of training.

    Example:
      >>> bucket_pools(np.array([1, 0]), direction="easy_first", pacing="cumulative")
      (array([1]), array([0, 1]))
    """
    order = list(range(int(bucket.max()) + 1))
    if direction == "shuffled":
        return tuple(np.arange(len(bucket)) for _ in order)
    if direction == "hard_first":
        order.reverse()
    reach = {"contiguous": lambda m: order[m : m + 1], "cumulative": lambda m: order[: m + 1]}
    return tuple(np.flatnonzero(np.isin(bucket, reach[pacing](m))) for m in range(len(order)))


def bucket_starts(pools: Sequence[np.ndarray], steps: int) -> tuple[int, ...]:
    """The first step of each bucket: steps are divided in proportion to the data.

    Example:
      >>> bucket_starts((np.arange(2), np.arange(4)), steps=60)
      (0, 20)
    """
    sizes = np.cumsum([0, *(len(pool) for pool in pools)])
    return tuple(int(start) for start in sizes[:-1] * steps // sizes[-1])


class BucketRows:
    """Batches of packed rows from the pool of a bucket.

    Args:
      encode: index of an example to its arrays.
      pools: the examples of each bucket's turn.
      replay: share of examples that are drawn from the pools before.
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
        self._stops = np.cumsum([len(pool) for pool in self.pools])
        self._replay, self._seed = replay, seed
        self._rows, self._length = rows, length
        self._bucket, self._place = 0, 0
        self._order: tuple[tuple[int, int], np.ndarray] = ((-1, -1), np.empty(0, int))

    def example_at(self, bucket: int, place: int) -> int:
        """The example at a place of a bucket's endless sequence.

        Each pass through a pool has another order; with replay, some places hold an example of an
        earlier bucket instead.
        """
        pool = self.pools[bucket]
        if bucket and self._replay:
            rng = np.random.default_rng((self._seed, 1, bucket, place))
            if rng.random() < self._replay:
                return self._earlier(bucket, rng)
        epoch, place = divmod(place, len(pool))
        if self._order[0] != (bucket, epoch):
            rng = np.random.default_rng((self._seed, 0, bucket, epoch))
            self._order = (bucket, epoch), rng.permutation(pool)
        return int(self._order[1][place])

    def _earlier(self, bucket: int, rng: np.random.Generator) -> int:
        """An example of the pools before a bucket, as if they lay behind each other in one."""
        stops = self._stops[:bucket]
        place = int(rng.integers(stops[-1]))
        pool = int(np.searchsorted(stops, place, side="right"))
        return int(self.pools[pool][place - stops[pool]])  # counted from the pool's end

    def take(self, bucket: int, count: int) -> list[int]:
        """The next `count` examples of a bucket, as indices."""
        self._enter(bucket)
        self._place += count
        return [self.example_at(bucket, self._place - count + i) for i in range(count)]

    def next_rows(self, bucket: int) -> tuple[TokenBatch, list[Span]]:
        """The next batch of a bucket: as many examples as fit, each in the first row with space."""
        self._enter(bucket)
        examples = []
        free = [self._length] * self._rows
        while True:
            index = self.example_at(bucket, self._place)
            example = self._encode(index)
            if not first_fit([free], [len(example["tokens"])]):
                return pack_in_order(examples, self._rows, self._length)
            examples.append((index, example))
            self._place += 1

    def _enter(self, bucket: int) -> None:
        if bucket != self._bucket:
            self._bucket, self._place = bucket, 0

    def get_state(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint."""
        return {"bucket": self._bucket, "place": self._place}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from where another stream stood."""
        self._bucket, self._place = state["bucket"], state["place"]
