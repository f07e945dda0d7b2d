"""What a step of distillation draws from: which bucket, by which teachers, with which weights.

Everything but the adaptive hand-over is a function of the step; what is not is in the state.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cotjax.config import Config
from cotjax.core.curriculum import HandOver, assign_buckets
from cotjax.curriculum.buckets import BucketRows, bucket_pools, bucket_starts
from cotjax.data.packing import Example, Span
from cotjax.interfaces import Record, TokenBatch
from cotjax.teachers.schedule import TeacherSchedule

AHEAD = 8  # steps before its first use that a teacher begins to load
# Parameters and records -> how hard each is, [n].
Measure = Callable[[Any, Sequence[Record]], np.ndarray]


class Curriculum:
    """The order of a run's examples and teachers; its state is the data's in a checkpoint.

    Args:
      config: of the run.
      records: the examples.
      encode: index of an example to its arrays.
      measure: difficulty of examples for a student.
    """

    def __init__(
        self,
        config: Config,
        records: Sequence[Record],
        encode: Callable[[int], Example],
        measure: Measure,
    ) -> None:
        self._config, self._encode, self._measure = config, encode, measure
        self._records = records
        self.schedule = TeacherSchedule(config)
        self.bucket = np.empty(0, np.int64)
        self._rows: BucketRows | None = None
        self.measured_at = -1  # the step for which the examples were sorted last, in this process

    def prepare(self, params: Any, step: int) -> None:
        """Sorts the examples before the first step, and later ones again with `rescore`.

        Args:
          params: the student's.
          step: about to be taken.
        """
        curriculum = self._config.curriculum
        if self._rows is None:
            self.measured_at = step
            difficulty = self._measure(params, self._records)
            self._open(
                assign_buckets(difficulty, num_buckets=curriculum.buckets, seed=self._config.seed)
            )
        bucket = self.bucket_at(step)
        if curriculum.rescore and bucket and step == self._starts()[bucket]:
            self.measured_at = step
            self._open(self._sorted_again(params, bucket))

    def _sorted_again(self, params: Any, turn: int) -> np.ndarray:
        """The buckets, of which those that are still to come are sorted anew."""
        curriculum, bucket = self._config.curriculum, self.bucket.copy()
        coming = np.arange(turn, curriculum.buckets)
        if curriculum.direction == "hard_first":
            coming = np.arange(curriculum.buckets - turn)
        rest = np.flatnonzero(np.isin(bucket, coming))
        difficulty = self._measure(params, [self._records[index] for index in rest.tolist()])
        fresh = assign_buckets(difficulty, num_buckets=len(coming), seed=self._config.seed)
        bucket[rest] = coming[fresh]
        return bucket

    def _open(self, bucket: np.ndarray) -> None:
        config, state = self._config, self._rows.get_state() if self._rows else None
        curriculum = config.curriculum
        self.bucket = bucket
        self._listed = bucket.tolist()  # once, and not for every checkpoint
        self._rows = BucketRows(
            self._encode,
            bucket_pools(bucket, direction=curriculum.direction, pacing=curriculum.pacing),
            replay=curriculum.replay,
            seed=config.seed,
            rows=config.batch.size,
            length=config.batch.sequence_length,
        )
        if state:
            self._rows.set_state(state)

    @property
    def rows(self) -> BucketRows:
        """The stream of examples; `prepare` comes first."""
        assert self._rows is not None, "prepare() sorts the examples first"
        return self._rows

    def _starts(self) -> tuple[int, ...]:
        return bucket_starts(self.rows.pools, self._config.steps)

    def bucket_at(self, step: int) -> int:
        """The bucket of a step; 0 is the first in the order of training."""
        return int(np.searchsorted(self._starts(), step, side="right")) - 1

    def next_rows(self, step: int) -> tuple[TokenBatch, list[Span]]:
        """Packed rows of the step's bucket."""
        return self.rows.next_rows(self.bucket_at(step))

    def take(self, step: int, count: int) -> list[int]:
        """Examples of the step's bucket, as indices."""
        return self.rows.take(self.bucket_at(step), count)

    def pool(self, step: int) -> list[int]:
        """The examples of the step's bucket, as indices; replayed ones are not among them."""
        return self.rows.pools[self.bucket_at(step)].tolist()

    def progress(self, step: int) -> float:
        """The share of the buckets that are done at the end of the step's bucket."""
        return (self.bucket_at(step) + 1) / self._config.curriculum.buckets

    def teacher_weights(self, step: int) -> np.ndarray:
        """Weights of the teachers at a step, [N] float32; they sum to 1."""
        return self.schedule.weights(step, self.progress(step))

    def metrics(self, step: int) -> dict[str, float]:
        """The bucket of a step, from 1, and each teacher's weight, by the metric's name."""
        weights = {f"teacher_{k + 1}": float(w) for k, w in enumerate(self.teacher_weights(step))}
        return {"bucket": self.bucket_at(step) + 1, **weights}

    def upcoming_teachers(self, step: int, ahead: int) -> set[int]:
        """Teachers that are in use within the next steps, as far as one can know."""
        return self.schedule.upcoming_teachers(step, ahead, self.progress)

    def pairs(self) -> set[tuple[int, int]]:
        """(bucket, teacher) that can meet in this run, both from 0."""
        curriculum, found = self._config.curriculum, set()
        # Steps of one turn draw from the same examples, which are looked at once.
        buckets_of = functools.cache(self._buckets_of)
        for step in range(self._config.steps):
            used = np.flatnonzero(self.teacher_weights(step))
            if curriculum.schedule == "adaptive":
                used = np.arange(self.schedule.num_teachers)
            buckets = buckets_of(self.bucket_at(step))
            found |= {(bucket, int(teacher)) for bucket in buckets for teacher in used}
        return found

    def _buckets_of(self, turn: int) -> list[int]:
        """The buckets, from 0 as the easiest, that a turn draws from, replayed ones included."""
        pools = self.rows.pools[0 if self._config.curriculum.replay else turn : turn + 1]
        return np.unique(self.bucket[np.concatenate(pools)]).tolist()

    def get_state(self) -> dict[str, Any]:
        """Where the curriculum stands, for a checkpoint; JSON."""
        handover = dataclasses.asdict(self.schedule.handover)
        handover["best"] = None if math.isinf(handover["best"]) else handover["best"]
        return {"rows": self.rows.get_state(), "bucket": self._listed, "handover": handover}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from where another curriculum stood."""
        best = state["handover"]["best"]
        best = math.inf if best is None else best
        self.schedule.handover = HandOver(**(state["handover"] | {"best": best}))
        self._open(np.asarray(state["bucket"], np.int64))
        self.rows.set_state(state["rows"])
