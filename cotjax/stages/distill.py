"""Distillation: examples from easy to hard, teachers from weak to strong, mixed by a schedule.

examples of the stage -> rows -> hidden states of the teachers in use -> divergence -> update
"""

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.data.bucketed import Example, Span, pack
from cotjax.data.teacher_store import TeacherStore
from cotjax.interfaces import Stage, Step, TokenBatch
from cotjax.models.head import Head
from cotjax.models.lora import join_adapter
from cotjax.parallel import processes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.rollout.engine import generate
from cotjax.stages import common, guards, limits
from cotjax.stages.classroom import Classroom
from cotjax.stages.completions import evaluate, rollout_params, rollout_sampling
from cotjax.stages.course import change
from cotjax.stages.lessons import Lesson, open_listening
from cotjax.stages.skill import check_skill
from cotjax.stages.supervised import dropout_key
from cotjax.stages.teachers import Teachers
from cotjax.stages.texts import TextStage
from cotjax.training.metrics import DISTILL_COLUMNS
from cotjax.training.update import init_state, make_update

AHEAD = 8  # steps before its first use that a teacher begins to load


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Work:
    """What an update takes.

    Attributes:
      batch: rows of the data's or the student's text.
      lesson: what the teachers say about them.
      alpha: share of cross-entropy in the loss.
      own: 1 if the student wrote the text, else 0.
      dropout_key: None without dropout.
    """

    batch: TokenBatch
    lesson: Lesson
    alpha: Array
    own: Array
    dropout_key: Any


def open_stage(config: Config, mesh: Mesh) -> Stage:
    """Distributions of teachers, or their texts, which cross from one tokenizer to another."""
    stages = {"distribution": DistillStage, "text": TextStage}
    return stages[config.distill.target](config, mesh)


class DistillStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do."""

    columns = DISTILL_COLUMNS
    inner_updates = 1

    def __init__(self, config: Config, mesh: Mesh) -> None:
        check_divides(mesh, config.sft.batch_size, "sft.batch_size")
        if config.distill.on_policy:
            check_divides(mesh, config.rollout.prompts, "rollout.prompts")
        self.config, self.mesh = config, mesh
        self.room = Classroom(config, mesh)
        self.student, self.data = self.room.student, self.room.course
        slots = self.data.schedule.slots()
        self.teachers = Teachers(config, mesh, self.student.tokenizer, slots=slots)
        self.sampling = rollout_sampling(
            config.rollout,
            eos_id=self.student.eos_id,
            pad_id=self.student.pad_id,
            in_groups=False,
        )
        uses = [limits.evaluation_use(config, self.student, mesh)]
        if config.distill.on_policy:
            uses.append(limits.rollout_use(config, self.sampling))
        room = limits.check_room(self.student, mesh, *uses)
        problems = self.room.monitor[: config.curriculum.skill_problems]
        skill = check_skill(config, mesh, self.teachers, problems)
        self.notes = (*self.student.notes, *room, *skill)
        optimizer = common.make_optimizer(config.optimizer, config.steps)
        # The update reuses the state's buffers; difficulty may be measured with the first ones.
        self.state = init_state(jax.tree.map(jnp.copy, self.student.params), optimizer)
        self.listening = open_listening(config, self.student, self.teachers.vocab_size)
        self.store: TeacherStore | None = None
        if config.distill.store:
            self._open_data(self.student.params, 0)
        self.update = make_update(self._loss, optimizer, self.state, self.student.base)
        self.held_out_loss = jax.jit(self._held_out_loss)
        self.root = jax.random.key(config.seed)
        distill, steps = config.distill, config.steps
        self.alpha = change(distill.alpha_schedule, distill.alpha, distill.alpha_end, steps)
        self.temperature = change(
            distill.temperature_schedule, distill.temperature, distill.temperature_end, steps
        )

    # The loss.

    def _loss(
        self, params: Any, base: Any, work: Work
    ) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
        policy, params = self.student.policy, join_adapter(params, base)
        batch, distill = work.batch, self.config.distill
        mask = batch.weight > 0
        count = mask.sum()
        hidden = policy.rows(params, batch, dropout_key=work.dropout_key)
        divergence = self._distance(policy.head(params, whole=True), hidden, work, mask)
        metrics = {"divergence": (divergence, count)}
        if not (distill.alpha or distill.alpha_schedule != "constant"):
            return divergence, count, metrics

        def cross_entropy(hidden: Array) -> Array:
            return -common.head_logprobs(policy, params, hidden, batch.targets, mask)[0].sum()

        data = jax.lax.cond(work.alpha > 0, cross_entropy, lambda _: jnp.zeros(()), hidden)
        loss = (1 - work.alpha) * divergence + work.alpha * data
        return loss, count, metrics | {"cross_entropy": (data, count)}

    def _distance(self, head: Head, hidden: Array, work: Work, mask: Array) -> Array:
        """What the teachers say against all tokens together, nats."""

        def divergence(hidden: Array, head: Head) -> Array:
            return self.listening.total_divergence(work.lesson, hidden, head, mask)

        def policy_gradient(hidden: Array, head: Head) -> Array:
            return self.listening.policy_gradient(
                work.lesson, hidden, head, work.batch.targets, mask
            ).sum()

        distill = self.config.distill
        if not distill.on_policy or distill.on_policy_loss == "divergence":
            return divergence(hidden, head)
        return jax.lax.cond(work.own > 0, policy_gradient, divergence, hidden, head)

    def _held_out_loss(self, params: Any, base: Any, work: Work) -> Array:
        policy, params = self.student.policy, join_adapter(params, base)
        hidden, mask = policy.rows(params, work.batch), work.batch.weight > 0
        head = policy.head(params, whole=True)
        return self.listening.total_divergence(work.lesson, hidden, head, mask) / mask.sum()

    # A step.

    def next_step(self, params: Any, step: int) -> Step:
        """Rows of the stage's examples, and what the teachers in use say about them."""
        waited = time.perf_counter()
        self._open_data(params, step)
        observed, alarm = self.data.schedule.look(
            step,
            self.teachers.names,
            lambda teacher: self._held_out(params, step, teacher),
            lambda: self.room.pass_rate(params),
        )
        own = _is_turn(step, self.config.distill.on_policy)
        batch, spans = self._own_rows(params, step) if own else self.data.next_rows(step)
        used = float((batch.segment > 0).mean())
        ready = time.perf_counter()
        weights = self.data.weights(step)
        placed = parallel.shard(self.mesh, batch)
        if self.config.distill.store:
            lesson = self._read(batch, spans, weights)
            ready = time.perf_counter()
        else:
            lesson = self.teachers.lesson(placed, weights, self.temperature(step))
            self.teachers.keep_only(soon := self.data.soon(step, AHEAD))
            self.teachers.prefetch(soon)
        alpha = 0.0 if own else self.alpha(step)
        metrics = {
            "batch_tokens": batch.tokens.size,
            "used": used,
            "examples": len(spans),
            "data_stage": self.data.stage_at(step) + 1,
            "data_wait_s": ready - waited,
            "temperature": self.temperature(step),
            "alpha": alpha,
            "own_text": float(own),
        }
        metrics |= {f"teacher_{k + 1}": float(w) for k, w in enumerate(weights)}
        key = dropout_key(self.config, self.mesh, jax.random.fold_in(self.root, step))
        work = self._work(placed, lesson, alpha=alpha, own=own, dropout_key=key)
        return Step([work], metrics | observed, [], alarm)

    def _open_data(self, params: Any, step: int) -> None:
        """Sorts the examples if it is time to, and opens a store, which must be about them."""
        self.data.prepare(params, step)
        if self.config.distill.store and self.store is None:
            expected = self.room.manifest(self.teachers)
            folder = pathlib.Path(self.config.distill.store)
            self.store = TeacherStore(folder, expected, sorted(self.data.pairs()))

    def _work(
        self, batch: TokenBatch, lesson: Lesson, *, alpha: float, own: bool, dropout_key: Any
    ) -> Work:
        share, flag = (parallel.replicate(self.mesh, np.float32(x)) for x in (alpha, own))
        return Work(batch, lesson, share, flag, dropout_key)

    def _read(self, batch: TokenBatch, spans: list[Span], weights: Any) -> Lesson:
        """What the store holds of the teachers in use."""
        assert self.store is not None, "it is opened before the first step"
        shape = (*batch.tokens.shape, self.config.distill.top_k)
        slots, spoken = self.teachers.in_slots(weights), {}
        for teacher in {k for k, weight in slots if weight > 0}:
            ids, logp = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
            for span in spans:
                said = self.store.read(teacher, span.example)
                columns = span.start + np.flatnonzero(
                    batch.weight[span.row, span.start : span.stop] > 0
                )
                ids[span.row, columns], logp[span.row, columns] = said.ids, said.logp
            spoken[teacher] = parallel.shard(self.mesh, (logp, ids))
        return Lesson(
            *self.teachers.numbers(slots, self.config.distill.temperature),
            topk_logp=tuple(spoken[k][0] for k, _ in slots),
            topk_ids=tuple(spoken[k][1] for k, _ in slots),
        )

    def _own_rows(self, params: Any, step: int) -> tuple[TokenBatch, list[Span]]:
        """Rows of what the student now writes for the stage's questions."""
        rollout = self.config.rollout
        indices = self.data.take(step, rollout.prompts)
        records = [self.room.records[i] for i in indices]
        texts = [self.student.prompts.solve(record.question) for record in records]
        prompts = common.prompt_batch(
            self.student, indices, records, texts, rollout.max_prompt_tokens
        )
        written = generate(
            self.student.policy,
            rollout_params(self.student, self.config, self.mesh, params),
            parallel.shard(self.mesh, prompts),
            jax.random.fold_in(self.root, step),
            settings=self.sampling,
            stop_table=self.student.stop_table,
        )
        written = processes.fetch(written)
        tokens, mask = written.tokens[:, 0], written.mask[:, 0]
        examples = [
            (index, _row(prompt[seen], own[counts]))
            for index, prompt, seen, own, counts in zip(
                indices, prompts.tokens, prompts.mask, tokens, mask, strict=True
            )
        ]
        return pack(examples, self.config.sft.batch_size, self.config.sft.sequence_length)

    def _held_out(self, params: Any, step: int, teacher: int) -> float:
        """The student's divergence from a teacher on the records it is watched by, nats."""
        examples = [
            (i, self.room.encode_record(record)) for i, record in enumerate(self.room.monitor)
        ]
        batch, _ = pack(examples, self.config.sft.batch_size, self.config.sft.sequence_length)
        placed, alone = parallel.shard(self.mesh, batch), np.eye(len(self.teachers.names))[teacher]
        lesson = self.teachers.lesson(placed, alone, self.temperature(step))
        work = self._work(placed, lesson, alpha=0.0, own=False, dropout_key=None)
        return float(self.held_out_loss(params, self.student.base, work))

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the extractor on the held-out golds; the folder is not needed."""
        del folder
        return guards.gold_check(self.room.held_out)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return evaluate(self.student, self.config, self.mesh, params, self.room.held_out)


def _is_turn(step: int, share: float) -> bool:
    """Whether a step belongs to a share of all steps, spread evenly.

    Example:
      >>> [_is_turn(step, 0.5) for step in range(4)]
      [False, True, False, True]
    """
    return int((step + 1) * share + 1e-9) > int(step * share + 1e-9)


def _row(prompt: np.ndarray, completion: np.ndarray) -> Example:
    """The student's own text as an example; the loss falls on what it wrote."""
    row = np.concatenate([prompt, completion]).astype(np.int32)
    weight = (np.arange(1, len(row)) >= len(prompt)).astype(np.float32)
    return {"tokens": row[:-1], "targets": row[1:], "weight": weight}
