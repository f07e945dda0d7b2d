"""Sequence-level distillation: cross-entropy on what the scheduled teachers write.

questions of the bucket -> a teacher for each, by weight -> texts -> the student's tokens -> update
"""

import collections
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.curriculum.curriculum import AHEAD
from cotjax.curriculum.dataset import DistillDataset
from cotjax.data.encode import encode_supervised
from cotjax.data.packing import Example, pack_in_order
from cotjax.interfaces import Program, Record, Step
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages.base import BaseStage
from cotjax.stages.supervised import COLUMNS, dropout_key, make_loss, micro_shape
from cotjax.student import preflight
from cotjax.student.drift import drift_of
from cotjax.student.load import load_policy
from cotjax.student.records import solution
from cotjax.teachers.text import TextTeachers
from cotjax.training.optimizer import ramp

DATA = -1  # stands for the data's own solutions


class DistillTextStage(BaseStage):
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do.

    Of a step's questions a share alpha keeps the data's own solution; the others are dealt out to
    the teachers by their weights. A place whose teacher has no text for its question goes to
    further questions of the bucket, until it has one or there are none.

    Args:
      config: of the run.
      mesh: devices.
    """

    columns = COLUMNS

    def __init__(self, config: Config, mesh: Mesh) -> None:
        check_divides(mesh, config.batch.size, "batch.size")
        student = load_policy(config, mesh)
        self.dataset = DistillDataset(config, mesh, student)
        super().__init__(config, mesh, student, self.dataset.held_out)
        self.drift = drift_of(student, mesh, config)
        self.data = self.dataset.curriculum
        self.teachers = TextTeachers(config, mesh, self.dataset.records, student)
        use = preflight.evaluation_use(config, student, len(self.held_out))
        self.notes += preflight.check_fits(student, use)
        self.notes += tuple(self.teachers.notes(self.dataset.records))
        loss = make_loss(student.policy)
        self.learn_from(loss, config.steps)
        self._loss = jax.jit(loss)
        self.root = jax.random.key(config.seed)
        distill = config.distill
        self.alpha = ramp(distill.alpha_schedule, distill.alpha, distill.alpha_end, config.steps)

    def programs(self) -> Sequence[Program]:
        """Those of every stage; teachers, order and update."""
        config, micro = self.config, micro_shape(self.config, self.mesh)
        weights = self.data.schedule.weights(0, 1 / config.curriculum.buckets)
        alone = self.alpha(0) == 0 and np.count_nonzero(weights) == 1
        used = np.flatnonzero(weights).tolist() if alone else ()
        found = [*super().programs(), *self.dataset.programs(), *self.teachers.programs(used)]
        if config.curriculum.schedule == "adaptive":
            args = self.student.all_shapes, None, (micro[0], None)
            sure = config.steps > config.curriculum.check_every
            found.append(Program("held-out loss", self._loss, args, always=sure))
        return (*found, *self.update_programs([micro]))

    def next_step(self, params: Any, step: int) -> Step:
        """Rows of what the teachers write about the bucket's questions."""
        began = time.perf_counter()
        self.data.prepare(params, step)
        observed, alarm = self.data.schedule.maybe_hand_over(
            step,
            self.teachers.names,
            lambda teacher: self._held_out(params, teacher),
            lambda: self.dataset.pass_rate(params),
        )
        indices = self.data.take(step, self.config.rollout.prompts)
        records = [self.dataset.records[index] for index in indices]
        weights, alpha = self.data.teacher_weights(step), self.alpha(step)
        draw = np.random.default_rng((self.config.seed, 2, step))
        share = np.append((1 - alpha) * weights / weights.sum(), alpha)
        writers = draw.choice(
            [*range(len(weights)), DATA], size=len(records), p=share / share.sum()
        )
        key = jax.random.fold_in(self.root, step)
        examples, refilled = self._filled(step, records, writers, key)
        batch, spans = pack_in_order(
            examples, self.config.batch.size, self.config.batch.sequence_length
        )
        self.teachers.keep_only(self.data.upcoming_teachers(step, AHEAD))
        metrics = {
            "batch_tokens": batch.tokens.size,
            "mined_tokens": self.dataset.mined_tokens(step),
            "examples": len(spans),
            "kept_texts": len(spans) / len(records),
            "refilled": refilled / len(records),
            "data_wait_s": time.perf_counter() - began,
            "alpha": alpha,
        }
        broken = self.teachers.take_broken()
        bad = "; ".join(
            f"{count} texts of teacher {name} ended in a logit that is NaN or infinite"
            for name, count in broken.items()
        )
        metrics |= self.data.metrics(step) | {"nonfinite": sum(broken.values())}
        work = parallel.shard(self.mesh, batch), dropout_key(self.config, self.mesh, key)
        return Step([work], metrics | observed, [], alarm, bad=bad)

    def _filled(
        self, step: int, records: Sequence[Record], writers: np.ndarray, key: Any
    ) -> tuple[list[tuple[int, Example]], int]:
        """A text for every place of a batch, as far as there are any, and how many are of others.

        Further questions are drawn from the bucket's stream, whose place a checkpoint keeps: twice
        as many as the bucket has, at most, so that each of them is met. A model that writes nothing
        for some is asked no more.
        """
        found = dict(self._examples(records, writers, key))
        own, asked = len(found), collections.Counter(writers.tolist())
        pool = [self.dataset.records[index] for index in self.data.pool(step)]
        left = 2 * len(pool)
        everyone = {*asked} - {DATA} if own < len(records) else set[int]()
        dry = {k for k in everyone if self.teachers.lacks(k, pool) == len(pool)}
        while True:
            places = [k for k in range(len(records)) if k not in found and writers[k] not in dry]
            places = places[:left]
            if not places:
                return sorted(found.items()), len(found) - own
            left -= len(places)
            further = [self.dataset.records[i] for i in self.data.take(step, len(places))]
            whose = writers[places]
            more = self._examples(further, whose, key, first=asked)
            found |= {places[place]: example for place, example in more}
            asked.update(whose.tolist())
            silent = {*whose.tolist()} - {int(whose[place]) for place, _ in more} - {DATA}
            dry |= {k for k in silent if self.teachers.is_model(k)}

    def _examples(
        self,
        records: Sequence[Record],
        writers: np.ndarray,
        key: Any,
        first: Mapping[int, int] = MappingProxyType({}),
    ) -> list[tuple[int, Example]]:
        """(place among the records, arrays) of the texts that there are and that fit a row.

        Args:
          records: the problems.
          writers: of each.
          key: of the random numbers.
          first: how many texts each writer was asked for before, with this key.
        """
        texts: list[str | None] = [solution(record) for record in records]
        for teacher in sorted(set(writers.tolist()) - {DATA}):
            places = np.flatnonzero(writers == teacher).tolist()
            chosen, own = [records[place] for place in places], jax.random.fold_in(key, teacher)
            written = self.teachers.write(teacher, chosen, key=own, first=first.get(teacher, 0))
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        limit = self.config.batch.sequence_length
        encoded = [
            (place, self._encode(records[place], text))
            for place, text in enumerate(texts)
            if text is not None
        ]
        return [(place, one) for place, one in encoded if len(one["tokens"]) <= limit]

    def _encode(self, record: Record, text: str) -> Example:
        tokenizer, prompt = self.student.tokenizer, self.student.prompts.solve(record.question)
        return encode_supervised(
            *(tokenizer, prompt, text),
            eos_id=self.student.eos_id,
            max_length=2**31,
            name=record.id,
        )

    def _held_out(self, params: Any, teacher: int) -> float:
        """Cross-entropy of a teacher's texts about the monitored records, nats."""
        monitor, size = self.dataset.monitor, self.config.batch
        writers = np.full(len(monitor), teacher)
        examples = self._examples(monitor, writers, jax.random.fold_in(self.root, 2**31 - 1))
        batch, _ = pack_in_order(examples, size.size, size.sequence_length)
        work = parallel.shard(self.mesh, batch), None
        total, count, _ = self._loss(self.student.all_params(params), None, work)
        return float(total) / max(float(count), 1.0)
