"""Levels of a curriculum: each a stream of batches from easy to hard; success opens the next."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cotjax.core.curriculum import assign_buckets
from cotjax.data.curriculum import Curriculum, Subset
from cotjax.data.sources import Mixture
from cotjax.interfaces import Record, Source


class LevelStream:
    """An iterator over the current level's stream, which `report` may move to the next level.

    Where it stands (level, position in it, successes seen) is its state, so that a resumed run
    advances where an unbroken one did.

    Args:
      levels: makes the stream of each level, easiest first; with `get_state`, `set_state`, `close`.
      threshold: mean success of the last `window` reports that opens the next level.
      window: reports in that mean; a level holds at least as many.
      patience: reports after which the next level opens anyway; 0 = never.
    """

    def __init__(
        self,
        levels: Sequence[Callable[[], Any]],
        *,
        threshold: float,
        window: int,
        patience: int,
    ) -> None:
        self._levels, self.level = levels, 0
        self._threshold, self._window, self._patience = threshold, window, patience
        self._seen: deque[float] = deque(maxlen=window)
        self._reports = 0
        self._stream = levels[0]()

    @property
    def num_levels(self) -> int:
        """How many there are."""
        return len(self._levels)

    def __iter__(self) -> "LevelStream":
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next batch of the current level."""
        return next(self._stream)

    def report(self, success: float) -> bool:
        """Counts a batch's success, 0–1; True if that opened the next level."""
        self._seen.append(success)
        self._reports += 1
        full = len(self._seen) == self._window
        mastered = full and float(np.mean(self._seen)) >= self._threshold
        waited = bool(self._patience) and self._reports >= self._patience
        if self.level + 1 == len(self._levels) or not (mastered or waited):
            return False
        self._enter(self.level + 1)
        return True

    def _enter(self, level: int) -> None:
        self._stream.close()
        self.level, self._reports = level, 0
        self._seen.clear()
        self._stream = self._levels[level]()

    def get_state(self) -> dict[str, Any]:
        """Level, position and successes, as JSON has them."""
        return {
            "level": self.level,
            "reports": self._reports,
            "seen": list(self._seen),
            "position": self._stream.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` stood."""
        self._enter(state["level"])
        self._seen.extend(state["seen"])
        self._reports = state["reports"]
        self._stream.set_state(state["position"])


def make_levels(
    source: Source,
    difficulty: Callable[[Record], float],
    *,
    num_levels: int,
    pool: int,
    cumulative: bool,
    seed: int,
) -> list[Source | Mixture]:
    """The records of each level.

    Args:
      source: all records.
      difficulty: of a record; greater is harder.
      num_levels: buckets of nearly equal size.
      pool: how many records of the source are ordered.
      cumulative: a level holds the buckets before its own too.
      seed: orders records of equal difficulty.

    Raises:
      ValueError: fewer records than levels.
    """
    ordered = Subset(source, np.arange(min(pool, len(source))))
    values = np.array([difficulty(ordered[index]) for index in range(len(ordered))])
    buckets = assign_buckets(values, num_buckets=num_levels, seed=seed)
    mode = "cumulative" if cumulative else "contiguous"
    curriculum = Curriculum(ordered, buckets, mode)
    return [curriculum.stage(level) for level in range(num_levels)]
