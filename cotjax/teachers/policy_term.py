"""Teachers beside a policy stage: on-policy distillation, added to the policy loss.

policy_gradient   Â_t = A + c (log p(y_t) − log q_old(y_t))    in place of the group's advantage A
divergence        loss = policy loss + c · divergence, reduced as the objective reduces

c is `distill.coefficient`, p the schedule's mixture of teachers, y what the student sampled. Both
are without gradient through p; the gap is without any.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.distillation import distillation_advantage
from cotjax.core.masking import token_sum_count
from cotjax.core.objectives import Objective
from cotjax.errors import InputError
from cotjax.interfaces import Program, Record, ScoredGroups
from cotjax.models.head import Head
from cotjax.parallel import sharding as parallel
from cotjax.student.load import LoadedPolicy
from cotjax.teachers.distill_loss import DistillLoss, TeacherOutputs, make_distill_loss
from cotjax.teachers.pool import TeacherPool, read_groups
from cotjax.teachers.ranking import check_ranking, ranking_programs
from cotjax.teachers.schedule import TeacherSchedule
from cotjax.training.optimizer import ramp
from cotjax.training.update import SumCount

AHEAD = 2  # steps before its first use that a teacher begins to load


class PolicyTerm:
    """What the scheduled teachers add to a policy loss.

    Args:
      config: of the run.
      mesh: of the run.
      student: the model that is trained.
      problems: on which the order of teachers is checked.
      objective: to which the teachers are added.

    Raises:
      InputError: see `TeacherPool`; or an objective that has one advantage per sequence.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        problems: Sequence[Record],
        objective: Objective,
    ) -> None:
        distill = config.distill
        self.by_gap = distill.on_policy_loss == "policy_gradient"
        if self.by_gap and objective.term == "bridge_release":
            raise InputError(
                f'distill.coefficient = {distill.coefficient}, policy.objective = "bridge_release":'
                " it weighs a whole completion, and teachers give a number for every token. Take "
                'another policy.objective, or set distill.on_policy_loss = "divergence".'
            )
        self.coefficient, self._steps = distill.coefficient, config.steps
        self.schedule = TeacherSchedule(config)
        self.teachers = TeacherPool(
            *(config, mesh, student.tokenizer),
            slots=self.schedule.slots(),
            end=student.eos_id,
            rows=student.architecture.vocab_size,
        )
        self.distill_loss: DistillLoss = make_distill_loss(
            config, student, self.teachers.vocab_size
        )
        self.temperature = ramp(
            distill.temperature_schedule,
            distill.temperature,
            distill.temperature_end,
            config.steps,
        )
        self._mesh, self._config = mesh, config
        self._problems = problems[: config.curriculum.ranking_problems]
        place = parallel.batched(mesh)
        self._logprobs = jax.jit(self.distill_loss.teacher_logprobs, out_shardings=place)

    def prepare(self) -> tuple[str, ...]:
        """Measures whether the teachers are in order; sentences for the reader."""
        return check_ranking(self._config, self._mesh, self.teachers, self._problems)

    def programs(self, micros: Sequence[ScoredGroups]) -> Iterator[Program]:
        """What `prepare` and `add_teacher_term` compile for micro-batches of these shapes."""
        yield from ranking_programs(self._config, self._mesh, self.teachers, self._problems)
        yield from self.schedule.programs()
        first = np.flatnonzero(self.schedule.weights(0, self._progress(0))).tolist()
        for micro in micros:
            likely = micro is micros[-1]
            yield from self.teachers.programs(micro, first if likely else (), read_groups)
            outputs = self._output_shapes(micro) if self.by_gap else ()
            for one in outputs:
                args, sure = (one, micro.completion, micro.completion_mask), len(outputs) == 1
                yield Program(
                    *("the teachers' log-probabilities", self._logprobs, args),
                    always=sure and likely,
                )

    def micro_shapes(self, micros: Sequence[ScoredGroups]) -> list[ScoredGroups]:
        """The shapes that micro-batches of these shapes may have with the teachers' outputs."""
        if self.by_gap:
            return [dataclasses.replace(one, logp_teacher=one.logp_sampler) for one in micros]
        return [
            dataclasses.replace(micro, teacher_outputs=outputs)
            for micro in micros
            for outputs in self._output_shapes(micro)
        ]

    def _output_shapes(self, micro: ScoredGroups) -> list[TeacherOutputs]:
        return self.teachers.output_shapes(micro, self.schedule.combinations(), read_groups)

    def _progress(self, step: int) -> float:
        return (step + 1) / self._steps

    def add_teacher_term(
        self, micros: Sequence[ScoredGroups], step: int
    ) -> tuple[list[ScoredGroups], dict[str, float]]:
        """Micro-batches on the mesh with the outputs of the teachers in use, and metrics."""
        weights = self.schedule.weights(step, self._progress(step))
        added = [self._add(groups, weights, self.temperature(step)) for groups in micros]
        upcoming = self.schedule.upcoming_teachers(step, AHEAD, self._progress)
        self.teachers.keep_only(upcoming)
        self.teachers.prefetch(upcoming)
        return added, {f"teacher_{k + 1}": float(w) for k, w in enumerate(weights)}

    def about(self, step: int) -> dict[str, str]:
        """Whose the arrays are that a step's micro-batches are given; see `Step.about`."""
        weights = self.schedule.weights(step, self._progress(step))
        used = ", ".join(self.teachers.names[k] for k in np.flatnonzero(weights))
        return self.teachers.about(weights) | {"logp_teacher": f"teachers ({used})"}

    def _add(self, groups: ScoredGroups, weights: np.ndarray, temperature: float) -> ScoredGroups:
        outputs = self.teachers.outputs(groups, weights, temperature, read_groups)
        if not self.by_gap:
            return dataclasses.replace(groups, teacher_outputs=outputs)
        logp = self._logprobs(outputs, groups.completion, groups.completion_mask)
        return dataclasses.replace(groups, logp_teacher=logp)

    # Inside the loss.

    def advantage(self, groups: ScoredGroups, logp: Array) -> tuple[Array, dict[str, SumCount]]:
        """The advantage [B, G, T] of every token, and as a metric how far the teachers are.

        Args:
          groups: as `add_teacher_term` gives them.
          logp: [B, G, T] of the policy being trained, which drew the tokens if nothing else did.
        """
        assert groups.logp_teacher is not None, "`add_teacher_term` comes first"
        logp_old = logp if groups.logp_old is None else groups.logp_old
        gap = distillation_advantage(groups.logp_teacher, logp_old)
        gap = jnp.where(groups.completion_mask, gap, 0)
        advantage = groups.advantage[..., None] + self.coefficient * gap
        return advantage, {"divergence": token_sum_count(-gap, groups.completion_mask)}

    def divergence(
        self, groups: ScoredGroups, hidden: Array, head: Head
    ) -> tuple[Array, dict[str, SumCount]]:
        """The coefficient times the divergence [B, G, T] of every token, and as a metric once.

        Args:
          groups: as `add_teacher_term` gives them.
          hidden: [B, G, T, D] of the policy being trained.
          head: its own.
        """
        mask = groups.completion_mask
        divergence = self.distill_loss.divergence(groups.teacher_outputs, hidden, head, mask)
        metric = token_sum_count(jax.lax.stop_gradient(divergence), mask)
        return self.coefficient * divergence, {"divergence": metric}
