"""Teachers beside a policy stage: on-policy distillation, added to the policy loss.

policy_gradient   Â_t = A + c (log p(y_t) − log q_old(y_t))    in place of the group's advantage A
divergence        loss = policy loss + c · divergence, reduced as the objective reduces

c is `distill.coefficient`, p the schedule's mixture of teachers, y what the student sampled. Both
are without gradient through p; the gap is without any.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.distillation import distillation_advantage
from cotjax.core.masking import token_sum_count
from cotjax.core.presets import Objective
from cotjax.errors import InputError
from cotjax.interfaces import Record, ScoredGroups
from cotjax.models.head import Head
from cotjax.stages import common
from cotjax.stages.course import change
from cotjax.stages.lessons import Listening, open_listening
from cotjax.stages.schedule import Schedule
from cotjax.stages.skill import check_skill
from cotjax.stages.teachers import Teachers, read_groups
from cotjax.training.update import SumCount

AHEAD = 2  # steps before its first use that a teacher begins to load


class Coach:
    """The teachers of a policy stage, and when they speak.

    Args:
      config: of the run.
      mesh: of the run.
      student: who learns.
      objective: to which the teachers are added.
      problems: on which the order of teachers is checked.

    Raises:
      InputError: see `Teachers`; or an objective that has one advantage per sequence.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: common.Student,
        objective: Objective,
        problems: Sequence[Record],
    ) -> None:
        distill = config.distill
        self.by_gap = distill.on_policy_loss == "policy_gradient"
        if self.by_gap and objective.term == "bridge_release":
            raise InputError(
                f'distill.coefficient = {distill.coefficient}, policy.objective = "bridge_release":'
                " it weighs a whole completion, and teachers speak of every token. Take another "
                'policy.objective, or set distill.on_policy_loss = "divergence".'
            )
        self.coefficient, self._steps = distill.coefficient, config.steps
        self.schedule = Schedule(config)
        self.teachers = Teachers(config, mesh, student.tokenizer, slots=self.schedule.slots())
        self.listening: Listening = open_listening(config, student, self.teachers.vocab_size)
        self.temperature = change(
            distill.temperature_schedule,
            distill.temperature,
            distill.temperature_end,
            config.steps,
        )
        checked = problems[: config.curriculum.skill_problems]
        self.notes = check_skill(config, mesh, self.teachers, checked)
        self._logprobs = jax.jit(self.listening.teacher_logprobs)

    def _done(self, step: int) -> float:
        return (step + 1) / self._steps

    def advise(
        self, micros: Sequence[ScoredGroups], step: int
    ) -> tuple[list[ScoredGroups], dict[str, float]]:
        """Adds what the teachers in use say to micro-batches on the mesh; and metrics."""
        weights = self.schedule.weights(step, self._done(step))
        advised = [self._advise(groups, weights, self.temperature(step)) for groups in micros]
        soon = self.schedule.soon(step, AHEAD, self._done)
        self.teachers.keep_only(soon)
        self.teachers.prefetch(soon)
        return advised, {f"teacher_{k + 1}": float(w) for k, w in enumerate(weights)}

    def _advise(
        self, groups: ScoredGroups, weights: np.ndarray, temperature: float
    ) -> ScoredGroups:
        lesson = self.teachers.lesson(groups, weights, temperature, read_groups)
        if not self.by_gap:
            return dataclasses.replace(groups, lesson=lesson)
        said = self._logprobs(lesson, groups.completion, groups.completion_mask)
        return dataclasses.replace(groups, logp_teacher=said)

    # Inside the loss.

    def advantage(self, groups: ScoredGroups, logp: Array) -> tuple[Array, dict[str, SumCount]]:
        """The advantage [B, G, T] of every token, and as a metric how far the teachers are.

        Args:
          groups: as `advise` gives them.
          logp: [B, G, T] of the policy being trained, which drew the tokens if nothing else did.
        """
        assert groups.logp_teacher is not None, "`advise` comes first"
        logp_old = logp if groups.logp_old is None else groups.logp_old
        gap = distillation_advantage(groups.logp_teacher, logp_old)
        gap = jnp.where(groups.completion_mask, gap, 0)
        advantage = groups.advantage[..., None] + self.coefficient * gap
        return advantage, {"divergence": token_sum_count(-gap, groups.completion_mask)}

    def distance(
        self, groups: ScoredGroups, hidden: Array, head: Head
    ) -> tuple[Array, dict[str, SumCount]]:
        """The coefficient times the divergence [B, G, T] of every token, and as a metric once.

        Args:
          groups: as `advise` gives them.
          hidden: [B, G, T, D] of the policy being trained.
          head: its own.
        """
        mask = groups.completion_mask
        distance = self.listening.divergence(groups.lesson, hidden, head, mask)
        said = token_sum_count(jax.lax.stop_gradient(distance), mask)
        return self.coefficient * distance, {"divergence": said}
