"""Sequence-level distillation: cross-entropy on what the scheduled teachers write.

questions of the stage -> an author for each, by weight -> texts -> the student's tokens -> update
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.data.bucketed import Example, pack
from cotjax.data.encode import encode_supervised
from cotjax.interfaces import Record, Step
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages import common, guards, limits
from cotjax.stages.authors import Authors
from cotjax.stages.classroom import Classroom
from cotjax.stages.completions import evaluate
from cotjax.stages.course import change
from cotjax.stages.supervised import dropout_key, make_loss
from cotjax.training.metrics import SFT_COLUMNS
from cotjax.training.update import init_state, make_update

AHEAD = 8  # steps before its first use that a teacher begins to load
OWN = -1  # the author of the data's own solutions


class TextStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do.

    Of a step's questions a share alpha keeps the data's own solution; the others are shared out
    among the teachers by their weights.
    """

    columns = SFT_COLUMNS
    inner_updates = 1

    def __init__(self, config: Config, mesh: Mesh) -> None:
        check_divides(mesh, config.sft.batch_size, "sft.batch_size")
        self.config, self.mesh = config, mesh
        self.room = Classroom(config, mesh)
        self.student, self.data = self.room.student, self.room.course
        self.authors = Authors(config, mesh, self.room.records)
        use = limits.evaluation_use(config, self.student, mesh)
        self.notes = (*self.student.notes, *limits.check_room(self.student, mesh, use))
        optimizer = common.make_optimizer(config.optimizer, config.steps)
        # The update reuses the state's buffers; difficulty may be measured with the first ones.
        self.state = init_state(jax.tree.map(jnp.copy, self.student.params), optimizer)
        loss = make_loss(self.student.policy)
        self.update = make_update(loss, optimizer, self.state, self.student.base)
        self._loss = jax.jit(loss)
        self.root = jax.random.key(config.seed)
        distill = config.distill
        self.alpha = change(distill.alpha_schedule, distill.alpha, distill.alpha_end, config.steps)

    def next_step(self, params: Any, step: int) -> Step:
        """Rows of what the authors write about the stage's questions."""
        began = time.perf_counter()
        self.data.prepare(params, step)
        observed, alarm = self.data.schedule.look(
            step,
            self.authors.names,
            lambda teacher: self._held_out(params, teacher),
            lambda: self.room.pass_rate(params),
        )
        indices = self.data.take(step, self.config.rollout.prompts)
        records = [self.room.records[index] for index in indices]
        weights, alpha = self.data.weights(step), self.alpha(step)
        draw = np.random.default_rng((self.config.seed, 2, step))
        share = np.append((1 - alpha) * weights / weights.sum(), alpha)
        authors = draw.choice([*range(len(weights)), OWN], size=len(records), p=share / share.sum())
        key = jax.random.fold_in(self.root, step)
        examples = self._examples(records, authors, key)
        batch, spans = pack(examples, self.config.sft.batch_size, self.config.sft.sequence_length)
        self.authors.keep_only(self.data.soon(step, AHEAD))
        metrics = {
            "batch_tokens": batch.tokens.size,
            "examples": len(spans),
            "kept_texts": len(spans) / len(records),
            "data_stage": self.data.stage_at(step) + 1,
            "data_wait_s": time.perf_counter() - began,
            "alpha": alpha,
        }
        metrics |= {f"teacher_{k + 1}": float(w) for k, w in enumerate(weights)}
        work = parallel.shard(self.mesh, batch), dropout_key(self.config, self.mesh, key)
        return Step([work], metrics | observed, [], alarm)

    def _examples(
        self, records: Sequence[Record], authors: np.ndarray, key: Any
    ) -> list[tuple[int, Example]]:
        """(place among the records, arrays) of the texts that there are and that fit a row."""
        texts: list[str | None] = [common.solution(record) for record in records]
        for teacher in sorted(set(authors.tolist()) - {OWN}):
            places = np.flatnonzero(authors == teacher).tolist()
            chosen = [records[place] for place in places]
            written = self.authors.write(teacher, chosen, key=jax.random.fold_in(key, teacher))
            for place, text in zip(places, written, strict=True):
                texts[place] = text
        limit = self.config.sft.sequence_length
        encoded = [
            (place, self._encode(records[place], text))
            for place, text in enumerate(texts)
            if text is not None
        ]
        return [(place, one) for place, one in encoded if len(one["tokens"]) <= limit]

    def _encode(self, record: Record, text: str) -> Example:
        tokenizer, prompt = self.student.tokenizer, self.student.prompts.solve(record.question)
        return encode_supervised(tokenizer, prompt, text, max_length=2**31, name=record.id)

    def _held_out(self, params: Any, teacher: int) -> float:
        """Cross-entropy of a teacher's texts about the records the student is watched by, nats."""
        monitor, size = self.room.monitor, self.config.sft
        authors = np.full(len(monitor), teacher)
        examples = self._examples(monitor, authors, jax.random.fold_in(self.root, 2**31 - 1))
        batch, _ = pack(examples, size.batch_size, size.sequence_length)
        work = parallel.shard(self.mesh, batch), None
        total, count, _ = self._loss(params, self.student.base, work)
        return float(total) / max(float(count), 1.0)

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the extractor on the held-out golds; the folder is not needed."""
        del folder
        return guards.gold_check(self.room.held_out)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return evaluate(self.student, self.config, self.mesh, params, self.room.held_out)
