"""Distillation from distributions: the scheduled teachers' logits for the bucket's examples.

examples of the bucket -> rows -> hidden states of the teachers in use -> divergence -> update
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.curriculum.curriculum import AHEAD
from cotjax.curriculum.dataset import DistillDataset
from cotjax.curriculum.likelihood import Likelihood, packed_records
from cotjax.data.packing import Example, Span, pack_in_order
from cotjax.interfaces import Program, Record, Step, TokenBatch
from cotjax.models.head import Head
from cotjax.parallel import processes, shapes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.progress import waiting
from cotjax.rollout.generate import generate
from cotjax.stages.base import BaseStage
from cotjax.stages.supervised import dropout_key, dropout_key_shape
from cotjax.student import preflight
from cotjax.student.drift import drift_of
from cotjax.student.generate import rollout_params, rollout_sampling, sampling_programs
from cotjax.student.load import load_policy
from cotjax.student.records import own_ids, prompt_batch
from cotjax.teachers.distill_loss import TeacherOutputs, make_distill_loss
from cotjax.teachers.logit_store import LogitStore
from cotjax.teachers.pool import TeacherPool
from cotjax.teachers.ranking import check_ranking, is_ladder, ranking_programs
from cotjax.training.metrics import SPEED, Column
from cotjax.training.optimizer import ramp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Work:
    """What an update takes.

    Attributes:
      batch: rows of the data's or the student's text.
      outputs: the teachers' for them.
      alpha: share of cross-entropy in the loss.
      own: 1 if the student sampled the text, else 0.
      dropout_key: None without dropout.
    """

    batch: TokenBatch
    outputs: TeacherOutputs
    alpha: Array
    own: Array
    dropout_key: Any


COLUMNS = (
    Column("loss", "nats", "loss", "{:.4f}", 8),
    Column("distance", "nats", "divergence", "{:.4f}", 8),
    Column("bucket", "", "bucket", "{:.0f}", 6),
    Column("update", "tokens/s", "update_tok_s", "{:,.0f}", 9),
    SPEED,
)


class DistillLogitsStage(BaseStage):
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do.

    Args:
      config: of the run.
      mesh: devices.
    """

    columns = COLUMNS

    def __init__(self, config: Config, mesh: Mesh) -> None:
        check_divides(mesh, config.batch.size, "batch.size")
        if config.distill.on_policy:
            check_divides(mesh, config.rollout.prompts, "rollout.prompts")
        student = load_policy(config, mesh)
        self.dataset = DistillDataset(config, mesh, student)
        super().__init__(config, mesh, student, self.dataset.held_out)
        self.drift = drift_of(student, mesh, config)
        self.data = self.dataset.curriculum
        slots = self.data.schedule.slots()
        self.teachers = TeacherPool(
            *(config, mesh, student.tokenizer),
            slots=slots,
            end=student.eos_id,
            student=student,
            rows=student.architecture.vocab_size,
        )
        self.context = self.dataset.context(self.teachers)
        self.sampling = rollout_sampling(config.rollout, student, in_groups=False)
        uses = [preflight.evaluation_use(config, student, len(self.held_out))]
        if config.distill.on_policy:
            uses.append(preflight.rollout_use(config, self.sampling))
        problems = self.dataset.monitor[: config.curriculum.ranking_problems]
        self.notes += preflight.check_fits(student, *uses)
        self._problems = problems
        self.distill_loss = make_distill_loss(config, student, self.teachers.vocab_size)
        self._likelihood = Likelihood(
            *(self.dataset, self.teachers, self.context, problems),
            chunk_size=self.distill_loss.chunk_size,
        )
        self.store: LogitStore | None = None
        self.learn_from(self._loss, config.steps)
        self.held_out_loss = jax.jit(self._held_out_loss)
        self.root = jax.random.key(config.seed)
        distill, steps = config.distill, config.steps
        self.alpha = ramp(distill.alpha_schedule, distill.alpha, distill.alpha_end, steps)
        self.temperature = ramp(
            distill.temperature_schedule, distill.temperature, distill.temperature_end, steps
        )

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the golds and the order of the teachers, and opens a logit cache.

        Raises:
          InputError: a cache that is not there, or of other examples.
        """
        told = super().prepare(folder)
        told += check_ranking(
            *(self.config, self.mesh, self.teachers, self._problems), self._likelihood
        )
        if self.config.teachers.cache:
            self._open_data(self.student.params, 0)
        return told

    # What it compiles.

    def programs(self) -> Sequence[Program]:
        """Those of every stage; teachers, order and update."""
        config, mesh = self.config, self.mesh
        rows = shapes.token_batch(mesh, config.batch.size, config.batch.sequence_length)
        works = list(self._work_shapes(rows))
        found: list[Program] = []
        if not config.teachers.cache:
            first = self.data.schedule.weights(0, 1 / config.curriculum.buckets)
            used = np.flatnonzero(first).tolist()
            found += ranking_programs(config, mesh, self.teachers, self._problems)
            found += self.teachers.programs(rows, used, shown=self.context.shapes(mesh, rows))
            if is_ladder(self.teachers) and len(self.teachers.names) > 1:
                found += self._likelihood.programs(rows)
        found += [*super().programs(), *self.dataset.programs()]
        if config.distill.on_policy:
            found += sampling_programs(
                "the student's own text",
                self.student,
                config,
                mesh,
                settings=self.sampling,
                prompts=config.rollout.prompts,
                width=config.rollout.max_prompt_tokens,
                always=any(_is_turn(n, config.distill.on_policy) for n in range(config.steps)),
            )
        if config.curriculum.schedule == "adaptive":
            sure = len(works) == 1 and config.steps > config.curriculum.check_every
            for work in works:
                args = self.student.all_shapes, dataclasses.replace(work, dropout_key=None)
                found.append(Program("held-out loss", self.held_out_loss, args, always=sure))
        return (*found, *self.update_programs(works))

    def _work_shapes(self, rows: TokenBatch) -> Iterator[Work]:
        """What an update may take."""
        key = dropout_key_shape(self.config, self.mesh)
        number = shapes.whole(self.mesh)
        for outputs in self._output_shapes(rows):
            yield Work(rows, outputs, alpha=number, own=number, dropout_key=key)

    def _output_shapes(self, rows: TokenBatch) -> list[TeacherOutputs]:
        combinations = self.data.schedule.combinations()
        if not self.config.teachers.cache:
            shown = self.context.shapes(self.mesh, rows)
            return self.teachers.output_shapes(rows, combinations, shown=shown)
        size = (*rows.tokens.shape, self.config.teachers.top_k)
        return [self.teachers.cached_shapes(*size)]

    # The loss.

    def _loss(
        self, params: Any, reference: Any, work: Work
    ) -> tuple[Array, Array, dict[str, tuple[Array, Array]]]:
        del reference
        policy, batch, distill = self.student.policy, work.batch, self.config.distill
        mask = batch.weight > 0
        count = mask.sum()
        hidden = policy.rows(params, batch, dropout_key=work.dropout_key)
        divergence = self._divergence(policy.head(params, whole=True), hidden, work, mask)
        metrics = {"divergence": (divergence, count)}
        if not (distill.alpha or distill.alpha_schedule != "constant"):
            return divergence, count, metrics

        def cross_entropy(hidden: Array) -> Array:
            return -policy.head_logprobs(params, hidden, batch.targets, mask)[0].sum()

        data = jax.lax.cond(work.alpha > 0, cross_entropy, lambda _: jnp.zeros(()), hidden)
        loss = (1 - work.alpha) * divergence + work.alpha * data
        return loss, count, metrics | {"cross_entropy": (data, count)}

    def _divergence(self, head: Head, hidden: Array, work: Work, mask: Array) -> Array:
        """Of the student from the teachers, over all tokens together, nats."""

        def divergence(hidden: Array, head: Head) -> Array:
            return self.distill_loss.total_divergence(work.outputs, hidden, head, mask)

        def policy_gradient(hidden: Array, head: Head) -> Array:
            return self.distill_loss.policy_gradient(
                work.outputs, hidden, head, work.batch.targets, mask
            ).sum()

        distill = self.config.distill
        if not distill.on_policy or distill.on_policy_loss == "divergence":
            return divergence(hidden, head)
        return jax.lax.cond(work.own > 0, policy_gradient, divergence, hidden, head)

    def _held_out_loss(self, params: Any, work: Work) -> Array:
        policy = self.student.policy
        hidden, mask = policy.rows(params, work.batch), work.batch.weight > 0
        head = policy.head(params, whole=True)
        return self.distill_loss.total_divergence(work.outputs, hidden, head, mask) / mask.sum()

    # A step.

    def next_step(self, params: Any, step: int) -> Step:
        """Rows of the bucket's examples, with the outputs of the teachers in use."""
        waited = time.perf_counter()
        self._open_data(params, step)
        observed, alarm = self.data.schedule.maybe_hand_over(
            step,
            self.teachers.names,
            lambda teacher: self._held_out(params, step, teacher),
            lambda: self.dataset.pass_rate(params),
        )
        own = _is_turn(step, self.config.distill.on_policy)
        weights = self.data.teacher_weights(step)
        batch, spans = self._own_rows(params, step, weights) if own else self.data.next_rows(step)
        used = float((batch.segment > 0).mean())
        ready = time.perf_counter()
        placed = parallel.shard(self.mesh, batch)
        about = self.teachers.about(weights)
        if self.config.teachers.cache:
            outputs, broken = self._read(batch, spans, weights)
            about |= broken
            ready = time.perf_counter()
        else:
            outputs = self._outputs(batch, placed, spans, self.dataset.records, weights, step)
            self.teachers.keep_only(upcoming := self.data.upcoming_teachers(step, AHEAD))
            self.teachers.prefetch(upcoming)
        alpha = 0.0 if own else self.alpha(step)
        metrics = {
            "batch_tokens": batch.tokens.size,
            "sampled_tokens": int((batch.segment > 0).sum()) if own else 0,
            "mined_tokens": self.dataset.mined_tokens(step),
            "used": used,
            "examples": len(spans),
            "data_wait_s": ready - waited,
            "temperature": self.temperature(step),
            "alpha": alpha,
            "own_text": float(own),
        }
        metrics |= self.data.metrics(step)
        key = dropout_key(self.config, self.mesh, jax.random.fold_in(self.root, step))
        work = self._work(placed, outputs, alpha=alpha, own=own, dropout_key=key)
        # Of the rows alone: the teachers' outputs are large, and show in the loss.
        data = {"rows": batch, "alpha": alpha, "own": own, "dropout_key": key}
        return Step([work], metrics | observed, [], alarm, data=data, about=about)

    def _open_data(self, params: Any, step: int) -> None:
        """Sorts the examples if it is time to, and opens a logit cache, which must be of them."""
        self.data.prepare(params, step)
        if self.config.teachers.cache and self.store is None:
            expected = self.dataset.manifest(self.teachers)
            folder = pathlib.Path(self.config.teachers.cache)
            self.store = LogitStore(folder, expected, sorted(self.data.pairs()))

    def _work(
        self,
        batch: TokenBatch,
        outputs: TeacherOutputs,
        *,
        alpha: float,
        own: bool,
        dropout_key: Any,
    ) -> Work:
        share, flag = (parallel.replicate(self.mesh, np.float32(x)) for x in (alpha, own))
        return Work(batch, outputs, share, flag, dropout_key)

    def _outputs(
        self,
        batch: TokenBatch,
        placed: TokenBatch,
        spans: list[Span],
        records: Sequence[Record],
        weights: Any,
        step: int,
    ) -> TeacherOutputs:
        """The outputs of the teachers in use for a batch, on the host and on the mesh."""
        shown = self.context.placed(self.mesh, _used(weights), batch, spans, records)
        return self.teachers.outputs(placed, weights, self.temperature(step), shown=shown)

    def _read(
        self, batch: TokenBatch, spans: list[Span], weights: Any
    ) -> tuple[TeacherOutputs, dict[str, str]]:
        """The cached logits of the teachers in use, and where those are that hold a NaN."""
        assert self.store is not None, "it is opened before the first step"
        shape = (*batch.tokens.shape, self.config.teachers.top_k)
        slots, read = self.teachers.in_slots(weights), {}
        broken: dict[int, str] = {}
        for teacher in {k for k, weight in slots if weight > 0}:
            ids, logp = np.zeros(shape, np.int32), np.full(shape, -np.inf, np.float32)
            for span in spans:
                stored = self.store.read(teacher, span.example)
                columns = span.start + np.flatnonzero(
                    batch.weight[span.row, span.start : span.stop] > 0
                )
                ids[span.row, columns], logp[span.row, columns] = stored.ids, stored.logp
                if np.isnan(stored.logp).any():
                    broken.setdefault(teacher, self.store.where(teacher, span.example))
            read[teacher] = parallel.shard(self.mesh, (logp, ids))
        outputs = TeacherOutputs(
            *self.teachers.numbers(slots, self.config.distill.temperature),
            topk_logp=tuple(read[k][0] for k, _ in slots),
            topk_ids=tuple(read[k][1] for k, _ in slots),
        )
        names = {
            f"topk_logp.{slot}": f"teacher {self.teachers.names[k]}, {broken[k]}"
            for slot, (k, _) in enumerate(slots)
            if k in broken
        }
        return outputs, names

    def _own_rows(self, params: Any, step: int, weights: Any) -> tuple[TokenBatch, list[Span]]:
        """Rows of what the student now writes for the bucket's questions."""
        rollout = self.config.rollout
        indices = self.data.take(step, rollout.prompts)
        records = [self.dataset.records[i] for i in indices]
        texts = [self.student.prompts.solve(record.question) for record in records]
        ids, limit = own_ids(indices, len(self.dataset.records)), rollout.max_prompt_tokens
        prompts = prompt_batch(self.student.tokenizer, ids, records, texts, limit)
        with waiting(f"generating {rollout.prompts:,} completions"):
            written = generate(
                self.student.sampler,
                rollout_params(self.student, self.config, self.mesh, params),
                parallel.shard(self.student.rollout_mesh, prompts),
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
        size, counts = self.config.batch, [int(row.sum()) for row in mask]
        beside = self.context.limits(_used(weights), records, counts)
        return pack_in_order(examples, size.size, size.sequence_length, beside=beside)

    def _held_out(self, params: Any, step: int, teacher: int) -> float:
        """The student's divergence from a teacher on the monitored records, nats."""
        batch, spans = next(packed_records(self.dataset, self.dataset.monitor))
        placed, alone = parallel.shard(self.mesh, batch), np.eye(len(self.teachers.names))[teacher]
        outputs = self._outputs(batch, placed, spans, self.dataset.monitor, alone, step)
        work = self._work(placed, outputs, alpha=0.0, own=False, dropout_key=None)
        return float(self.held_out_loss(self.student.all_params(params), work))


def _used(weights: Any) -> list[int]:
    """The teachers that have weight."""
    return np.flatnonzero(weights).tolist()


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
