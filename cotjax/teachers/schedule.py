"""The weight of every teacher at a step: a function of the step, or of the student's progress."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from cotjax.config import Config, Plugin, plugin
from cotjax.core.curriculum import Cause, HandOver, handover_weights, observe, teacher_weights
from cotjax.interfaces import Program
from cotjax.parallel import shapes


class TeacherSchedule:
    """The teachers' weights over a run; only `handover` is state.

    Args:
      config: of the run.

    A user's function is asked for every step of the run when it begins, so that what it does wrong
    is known then, and how many teachers are in use at once.

    Attributes:
      handover: where the schedule "adaptive" stands.
      num_teachers: N.
    """

    def __init__(self, config: Config) -> None:
        self._curriculum, self._steps = config.curriculum, config.steps
        self.num_teachers = len(config.teachers.paths)
        self.handover = HandOver()
        self._own = plugin(config, "curriculum.schedule")
        kind: Any = config.curriculum.schedule

        def schedule(progress: Array) -> Array:
            weights = functools.partial(teacher_weights, num_teachers=self.num_teachers, kind=kind)
            return weights(progress) if kind == "step" else jax.vmap(weights)(progress)

        self._compiled = jax.jit(schedule)
        self._slots = int((self._smooth > 0).sum(axis=1).max()) if self._own else 0

    def programs(self) -> Iterator[Program]:
        """What a schedule compiles that is a function of the step."""
        kind = self._curriculum.schedule
        if not self._own and kind in ("step", "linear", "cosine"):
            progress = shapes.on_host(*(() if kind == "step" else (self._steps,)))
            yield Program("the teachers' weights", self._compiled, (progress,))

    @functools.cached_property
    def _smooth(self) -> np.ndarray:
        """[steps, N] the weights at every step, of a schedule that moves with each."""
        if self._own:
            return self._of_user(self._own)
        progress = np.arange(self._steps) / max(self._steps - 1, 1)
        return np.asarray(self._compiled(progress.astype(np.float32)))

    def _of_user(self, own: Plugin) -> np.ndarray:
        """The weights that a user's function gives, [steps, N]; all are asked for at the start.

        Raises:
          PluginError: it raised, or gave no weights; names the progress.
        """
        number, table = self.num_teachers, []
        needs = f"it needs {number} weights >= 0 that sum to 1, one for each teacher. Return such."
        for step in range(self._steps):
            progress = step / max(self._steps - 1, 1)
            place = f"progress {progress:g}"
            gave = own(progress, number, record=place)
            try:
                weights = np.asarray(gave, float)
            except (TypeError, ValueError):
                raise own.refuse(gave, needs, place) from None
            good = weights.shape == (number,) and np.isfinite(weights).all()
            if not (good and weights.min() >= 0 and abs(weights.sum() - 1) <= 1e-3):
                raise own.refuse(gave, needs, place)
            table.append(weights / weights.sum())
        return np.array(table, np.float32)

    def weights(self, step: int, progress: float) -> np.ndarray:
        """Weights of the teachers at a step, [N] float32; they sum to 1.

        Args:
          step: from 0.
          progress: share of the buckets that are done after the step's bucket, for "step".
        """
        curriculum = self._curriculum
        table: dict[str, Callable[[], np.ndarray]] = {
            "fixed": lambda: np.asarray(curriculum.teacher_weights, np.float32),
            "adaptive": lambda: handover_weights(
                self.handover, step, num_teachers=self.num_teachers, length=curriculum.handover
            ),
            "step": lambda: np.asarray(self._compiled(np.float32(progress))),
        }
        if not self._slots and curriculum.schedule in table:
            return table[curriculum.schedule]()
        return self._smooth[min(step, len(self._smooth) - 1)]

    def combinations(self) -> list[tuple[int, ...]]:
        """The teachers in all slots, as they may stand there together; the first ones last."""
        slots, count = self.slots(), self.num_teachers
        used = [(k,) for k in range(count)]
        if slots > 1:
            used += [(k, k + 1) for k in range(count - 1)]
        if self._own:
            used = [tuple(np.flatnonzero(row).tolist()) for row in self._smooth]
        elif self._curriculum.schedule == "fixed":
            used = [tuple(np.flatnonzero(self._curriculum.teacher_weights).tolist())]
        filled = dict.fromkeys((*each, *each[:1] * slots)[:slots] for each in used)
        return list(filled)[::-1]

    def slots(self) -> int:
        """How many teachers are in use at once, at most."""
        curriculum = self._curriculum
        if self._slots:
            return self._slots
        single = curriculum.schedule == "step" or (
            curriculum.schedule == "adaptive" and curriculum.handover == 1
        )
        if curriculum.schedule == "fixed":
            return sum(weight > 0 for weight in curriculum.teacher_weights)
        return 1 if single else min(2, self.num_teachers)

    def upcoming_teachers(
        self, step: int, ahead: int, progress: Callable[[int], float]
    ) -> set[int]:
        """Teachers that are in use within the next steps, as far as one can know.

        Args:
          step: from 0.
          ahead: how many steps.
          progress: a step to that share; see `weights`.
        """
        steps = range(step, min(step + ahead, self._steps))
        used = {int(k) for s in steps for k in np.flatnonzero(self.weights(s, progress(s)))}
        state, curriculum = self.handover, self._curriculum
        impatient = curriculum.schedule == "adaptive" and state.stale + 1 >= curriculum.patience
        if impatient and state.teacher + 1 < self.num_teachers:
            used.add(state.teacher + 1)
        return used

    def maybe_hand_over(
        self,
        step: int,
        names: Sequence[str],
        held_out_loss: Callable[[int], float],
        pass_rate: Callable[[], float],
    ) -> tuple[dict[str, float], str]:
        """Measures the student where schedule "adaptive" does; begins a hand-over if it is time.

        Args:
          step: about to be taken.
          names: of the teachers.
          held_out_loss: the student's against a teacher, nats.
          pass_rate: the student's share of right answers; called only if it matters.

        Returns:
          metrics, and a sentence if a hand-over begins.
        """
        curriculum = self._curriculum
        if curriculum.schedule != "adaptive" or not step or step % curriculum.check_every:
            return {}, ""
        current = self.handover.teacher
        metrics = {"held_out_divergence": held_out_loss(current)}
        if curriculum.pass_rate < 1:
            metrics["held_out_pass_rate"] = pass_rate()
        loss, passed = metrics["held_out_divergence"], metrics.get("held_out_pass_rate", 0.0)
        cause = self.observe(step, loss, passed)
        if not cause:
            return metrics, ""
        words = {
            "plateau": f"the held-out loss against it no longer falls ({loss:.4f} nats)",
            "pass_rate": f"the student solves {passed:.1%} of the held-out problems",
        }
        sentence = f"{names[current]} hands over to {names[self.handover.teacher]}: {words[cause]}"
        return metrics | {f"handover_by_{cause}": 1.0}, sentence

    def observe(self, step: int, loss: float, pass_rate: float) -> Cause:
        """Gives the adaptive schedule a measurement; the cause of a hand-over that begins."""
        curriculum = self._curriculum
        self.handover, cause = observe(
            self.handover,
            loss,
            pass_rate,
            step=step,
            num_teachers=self.num_teachers,
            length=curriculum.handover,
            patience=curriculum.patience,
            min_progress=curriculum.min_progress,
            threshold=curriculum.pass_rate,
        )
        return cause
