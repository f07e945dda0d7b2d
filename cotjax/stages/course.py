"""What is taught at a step: from which examples, by which teachers, with which weights.

Everything but the adaptive hand-over is a function of the step; what is not is in the state.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

from cotjax.config import Config
from cotjax.core.curriculum import assign_buckets
from cotjax.core.handover import HandOver
from cotjax.data.bucketed import CurriculumRows, Example, Span, stage_pools, stage_starts
from cotjax.interfaces import TokenBatch
from cotjax.stages.schedule import Schedule

# Parameters and indices of examples -> how hard each is.
Measure = Callable[[Any, np.ndarray], np.ndarray]


def change(kind: str, start: float, end: float, steps: int) -> Callable[[int], float]:
    """An optax schedule by name, from `start` at step 0 to `end` at the last step.

    Example:
      >>> [float(change("cosine", 2.0, 1.0, 3)(step)) for step in range(3)]
      [2.0, 1.5, 1.0]
    """
    last = max(steps - 1, 1)
    cosine = optax.cosine_decay_schedule(1.0, last)
    schedules: dict[str, Callable[[int], Any]] = {
        "constant": optax.constant_schedule(start),
        "linear": optax.linear_schedule(start, end, last),
        "cosine": lambda step: end + (start - end) * cosine(step),
    }
    return lambda step: float(schedules[kind](step))


class Course:
    """The curriculum of a run; `get_state` and `set_state` as a data iterator has them.

    Args:
      config: of the run.
      count: examples.
      encode: index of an example to its arrays.
      measure: difficulty of examples for a student.
    """

    def __init__(
        self, config: Config, count: int, encode: Callable[[int], Example], measure: Measure
    ) -> None:
        self._config, self._encode, self._measure = config, encode, measure
        self._count = count
        self.schedule = Schedule(config)
        self.bucket = np.empty(0, np.int64)
        self._rows: CurriculumRows | None = None

    def prepare(self, params: Any, step: int) -> None:
        """Sorts the examples before the first step, and the rest of them again if asked to.

        Args:
          params: the student's.
          step: about to be taken.
        """
        curriculum = self._config.curriculum
        if self._rows is None:
            difficulty = self._measure(params, np.arange(self._count))
            self._open(
                assign_buckets(difficulty, num_buckets=curriculum.buckets, seed=self._config.seed)
            )
        stage = self.stage_at(step)
        if curriculum.rescore and stage and step == self._starts()[stage]:
            self._open(self._sorted_again(params, stage))

    def _sorted_again(self, params: Any, stage: int) -> np.ndarray:
        """Buckets in which those that are still to come hold what is now easy and now hard."""
        curriculum, bucket = self._config.curriculum, self.bucket.copy()
        coming = np.arange(stage, curriculum.buckets)
        if curriculum.direction == "hard_first":
            coming = np.arange(curriculum.buckets - stage)
        rest = np.flatnonzero(np.isin(bucket, coming))
        difficulty = self._measure(params, rest)
        fresh = assign_buckets(difficulty, num_buckets=len(coming), seed=self._config.seed)
        bucket[rest] = coming[fresh]
        return bucket

    def _open(self, bucket: np.ndarray) -> None:
        config, state = self._config, self._rows.get_state() if self._rows else None
        curriculum = config.curriculum
        self.bucket = bucket
        self._rows = CurriculumRows(
            self._encode,
            stage_pools(bucket, direction=curriculum.direction, pacing=curriculum.pacing),
            replay=curriculum.replay,
            seed=config.seed,
            rows=config.sft.batch_size,
            length=config.sft.sequence_length,
        )
        if state:
            self._rows.set_state(state)

    @property
    def rows(self) -> CurriculumRows:
        """The stream of examples; `prepare` comes first."""
        assert self._rows is not None, "prepare() sorts the examples first"
        return self._rows

    def _starts(self) -> tuple[int, ...]:
        return stage_starts(self.rows.pools, self._config.steps)

    def stage_at(self, step: int) -> int:
        """The stage of a step, 0 the first."""
        return int(np.searchsorted(self._starts(), step, side="right")) - 1

    def next_rows(self, step: int) -> tuple[TokenBatch, list[Span]]:
        """Packed rows of the stage's examples."""
        return self.rows.next_rows(self.stage_at(step))

    def take(self, step: int, count: int) -> list[int]:
        """Examples of the stage, as indices."""
        return self.rows.take(self.stage_at(step), count)

    def done(self, step: int) -> float:
        """The share of the curriculum that has been done after the stage of a step."""
        return (self.stage_at(step) + 1) / self._config.curriculum.buckets

    def weights(self, step: int) -> np.ndarray:
        """Weights of the teachers at a step, [N] float32; they sum to 1."""
        return self.schedule.weights(step, self.done(step))

    def soon(self, step: int, ahead: int) -> set[int]:
        """Teachers that are in use within the next steps, as far as one can know."""
        return self.schedule.soon(step, ahead, self.done)

    def pairs(self) -> set[tuple[int, int]]:
        """(bucket, teacher) that can meet in this course, both from 0."""
        curriculum, found = self._config.curriculum, set()
        for step in range(self._config.steps):
            stage = self.stage_at(step)
            pools = self.rows.pools[0 if curriculum.replay else stage : stage + 1]
            used = np.flatnonzero(self.weights(step))
            if curriculum.schedule == "adaptive":
                used = np.arange(len(self._config.distill.teachers))
            buckets = np.unique(self.bucket[np.concatenate(pools)])
            found |= {(int(bucket), int(teacher)) for bucket in buckets for teacher in used}
        return found

    def get_state(self) -> dict[str, Any]:
        """Where the course stands, for a checkpoint; JSON."""
        handover = dataclasses.asdict(self.schedule.handover)
        handover["best"] = None if math.isinf(handover["best"]) else handover["best"]
        return {"rows": self.rows.get_state(), "bucket": self.bucket.tolist(), "handover": handover}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from where another course stood."""
        best = state["handover"]["best"]
        best = math.inf if best is None else best
        self.schedule.handover = HandOver(**(state["handover"] | {"best": best}))
        self._open(np.asarray(state["bucket"], np.int64))
        self.rows.set_state(state["rows"])
