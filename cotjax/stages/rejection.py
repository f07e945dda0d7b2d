"""A stage that samples, rejects, and learns what it accepts: no policy loss, no reference."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.curriculum.difficulty import Difficulty
from cotjax.curriculum.prompt_stream import (
    BucketStream,
    PromptFn,
    in_one_order,
    order_programs,
    prompt_stream,
)
from cotjax.data.sources import Records
from cotjax.interfaces import Program, Record, Step
from cotjax.stages.accepted import Accepted, Replay
from cotjax.stages.rollouts import RolloutStage, examples
from cotjax.stages.supervised import make_loss, micro_shape
from cotjax.student import preflight
from cotjax.student.groups import informative_program
from cotjax.student.load import LoadedPolicy
from cotjax.training.metrics import SPEED, Column
from cotjax.training.update import with_skipped

COLUMNS = (
    Column("accuracy", "", "accuracy", "{:.1%}", 8),
    Column("length", "tokens", "completion_tokens", "{:.1f}", 7),
    Column("accepted", "questions", "accepted", "{:.0f}", 9),
    Column("loss", "nats", "loss", "{:.4f}", 8),
    Column("rollout", "tokens/s", "rollout_tok_s", "{:,.0f}", 8),
    SPEED,
)


class RejectionStage(RolloutStage):
    """Supervised updates on accepted completions of a step's questions and of earlier ones.

    A step before anything is accepted samples and trains nothing.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that samples and is trained.
      train: records.
      held_out: what it is evaluated on.
      prompt: a record to its prompt, the question alone.
    """

    columns = COLUMNS

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        train: Records,
        held_out: list[Record],
        prompt: PromptFn,
    ) -> None:
        if config.curriculum.buckets > 1:
            in_one_order(config, train)  # refused before anything is measured
        difficulty = Difficulty(config, mesh, student)

        def data(folder: pathlib.Path | None) -> BucketStream:
            measure = functools.partial(difficulty, student.params, kept_in=folder)
            return prompt_stream(config, student.tokenizer, train, lambda progress: prompt, measure)

        super().__init__(
            *(config, mesh, student, held_out),
            data=data,
            data_programs=functools.partial(order_programs, config, train, difficulty),
            mined=difficulty.take_tokens,
        )
        kl, updates = config.supervised.kl_coefficient, config.rewrite.updates
        self.keeps_start = bool(kl) and not config.lora.rank
        if self.keeps_start:
            self.notes += (preflight.start_kept("supervised.kl_coefficient", kl, student),)
        self._replay = Replay(config, mesh, student)
        loss = make_loss(student.policy, kl_coefficient=kl)
        self.learn_from(loss, config.steps * updates, scores_reference=bool(kl))

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the golds, and opens the stream beside which accepted completions are kept."""
        told = super().prepare(folder)
        self.data = self.accepted = Accepted(self.stream, self.config.rewrite)
        return told

    def programs(self) -> Sequence[Program]:
        """Those of every stage that samples, and the update on rows."""
        rollout = self.config.rollout
        return (
            *super().programs(),
            informative_program(rollout.prompts, rollout.group_size, always=True),
            *self.update_programs([micro_shape(self.config, self.mesh)]),
        )

    def next_step(self, params: Any, step: int) -> Step:
        """Samples, accepts, and draws the batches of a step's updates from all that is accepted."""
        groups, metrics = self.sample(params, step)
        metrics |= self.accepted.take(groups)
        batches, trained = self._replay.batches(self.accepted, step)
        metrics["accepted"] = len(self.accepted.completions)
        metrics["batch_tokens"] = sum(rows.tokens.size for rows, _ in batches)
        metrics["trained_tokens"] = trained
        alarms = self.alarms(groups)
        if not batches:
            alarms += (
                "nothing accepted: no completion so far is right, well-formed and within "
                "rewrite.equations and rewrite.min_right, so this step trains nothing. Raise "
                "rollout.group_size, or take easier problems or a stronger student.",
            )
        bad = preflight.bad_completions(self.config, metrics["nonfinite"])
        rows, told = examples(groups, self.student.tokenizer), "\n".join(alarms)
        return Step(batches, metrics, rows, told, self.limits, groups=groups, bad=bad)

    def update(self, state: Any, batch: list[Any]) -> tuple[Any, dict[str, Any]]:
        """One optimizer update on each batch; the metrics are the last one's, `skipped` of all."""
        metrics: dict[str, Any] = {}
        for rows in batch:
            earlier = metrics
            state, metrics = super().update(state, [rows])
            metrics = with_skipped(metrics, earlier)
        return state, metrics
