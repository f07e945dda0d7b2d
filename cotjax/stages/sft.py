"""Supervised fine-tuning: cross-entropy on the rationale and answer, given the question."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import Rationale, render_rationale
from cotjax.data.encode import encode_supervised
from cotjax.data.pipeline import supervised_batches
from cotjax.data.prompts import Prompts
from cotjax.data.tokens import TokenCache
from cotjax.interfaces import Record, Step, TokenBatch
from cotjax.models.lora import join_adapter
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages import common
from cotjax.training.metrics import SFT_COLUMNS
from cotjax.training.update import init_state, make_update


@dataclasses.dataclass(frozen=True)
class Encode:
    """A record to a supervised example; holds no model, so that it travels to worker processes."""

    tokens: TokenCache
    prompts: Prompts
    max_length: int

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The question as prompt, the rationale as target."""
        del rng  # nothing is masked or shuffled here
        rationale = Rationale(steps=record.steps, answer=record.answer)
        return encode_supervised(
            self.tokens,
            self.prompts.solve(record.question),
            render_rationale(rationale),
            max_length=self.max_length,
            name=record.id,
        )


class SupervisedStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do."""

    columns = SFT_COLUMNS
    inner_updates = 1

    def __init__(self, config: Config, mesh: Mesh) -> None:
        check_divides(mesh, config.sft.batch_size, "sft.batch_size")
        self.config, self.mesh = config, mesh
        self.student = common.open_student(config, mesh)
        self.notes = self.student.notes
        train, self.held_out = common.open_records(config, self.student)
        optimizer = common.make_optimizer(config.optimizer, config.steps)
        self.state = init_state(self.student.params, optimizer)
        self.update = make_update(self._loss, optimizer, self.state, self.student.base)
        self.root = jax.random.key(config.seed)
        self.data = supervised_batches(
            train,
            Encode(
                TokenCache(self.student.tokenizer), self.student.prompts, config.sft.sequence_length
            ),
            seed=config.seed,
            batch_size=config.sft.batch_size,
            sequence_length=config.sft.sequence_length,
            workers=config.data.workers,
            place=self._place,
        )

    def _place(self, batch: TokenBatch) -> tuple[TokenBatch, float]:
        """The batch on the devices, and the share of its places that hold a token."""
        return parallel.shard(self.mesh, batch), float(np.mean(np.asarray(batch.segment) > 0))

    def _loss(
        self, params: Any, base: Any, micro: tuple[TokenBatch, Any]
    ) -> tuple[Array, Array, dict[str, Any]]:
        batch, dropout_key = micro
        policy, params = self.student.policy, join_adapter(params, base)
        mask = batch.weight > 0
        hidden = policy.rows(params, batch, dropout_key=dropout_key)
        logp, entropy = common.head_logprobs(policy, params, hidden, batch.targets, mask)
        count = mask.sum()
        return -logp.sum(), count, {"entropy": (entropy.sum(), count)}

    def next_step(self, params: Any, step: int) -> Step:
        """A packed batch and the key of its dropout; `params` do not matter."""
        del params
        began = time.perf_counter()
        batch, used = next(self.data)
        waited = time.perf_counter() - began
        metrics = {"batch_tokens": batch.tokens.size, "used": used, "data_wait_s": waited}
        key = None
        if self.config.lora.rank and self.config.lora.dropout:
            key = parallel.replicate(self.mesh, jax.random.fold_in(self.root, step))
        return Step([(batch, key)], metrics, [])

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return common.evaluate(self.student, self.config, self.mesh, params, self.held_out)
