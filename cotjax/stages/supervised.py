"""Supervised stages: packed rows of (prompt, target), cross-entropy on the target's tokens."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.reconstruction import weighted_nll
from cotjax.cot import Rationale, render_rationale
from cotjax.data.draws import Draws
from cotjax.data.encode import join_supervised
from cotjax.data.pipeline import supervised_batches
from cotjax.data.prompts import Prompts
from cotjax.data.sources import Records
from cotjax.data.token_cache import CAPACITY, TokenCache
from cotjax.interfaces import Program, Record, Step, TokenBatch
from cotjax.models.policy import Policy
from cotjax.parallel import processes, shapes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.stages.base import BaseStage
from cotjax.student import guards, preflight
from cotjax.student.load import LoadedPolicy
from cotjax.training.metrics import SPEED, Column
from cotjax.training.update import LossFn, SumCount

Encode = Callable[[Record, Draws], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Solution:
    """A record's whole solution as a target; holds no model, so that it travels to workers."""

    tokens: TokenCache
    prompts: Prompts
    eos_id: int
    max_length: int

    def __call__(self, record: Record, rng: Draws) -> dict[str, np.ndarray]:
        """The question as prompt."""
        del rng  # nothing is masked or shuffled here
        return self.encode(record, self.prompts.solve(record.question))

    def encode(self, record: Record, prompt: str) -> dict[str, np.ndarray]:
        """The solution as the target of a prompt."""
        return join_supervised(
            self.tokens.encode(prompt),
            self.tokens.encode(_target(record.steps, record.answer), again=True),
            eos_id=self.eos_id,
            max_length=self.max_length,
            name=record.id,
        )


@functools.lru_cache(CAPACITY)
def _target(steps: tuple[str, ...], answer: str) -> str:
    """The same string each time, whose hash Python keeps."""
    return render_rationale(Rationale(steps=steps, answer=answer))


def solution_encoder(student: LoadedPolicy, config: Config) -> Solution:
    """How a run encodes its records."""
    tokens, length = TokenCache(student.tokenizer), config.batch.sequence_length
    return Solution(tokens, student.prompts, student.eos_id, length)


def make_loss(policy: Policy) -> LossFn:
    """Cross-entropy of targets times their weight, over the number of targets that count."""

    def loss(
        params: Any, reference: Any, micro: tuple[TokenBatch, Any]
    ) -> tuple[Array, Array, dict[str, SumCount]]:
        del reference
        batch, dropout_key = micro
        mask = batch.weight > 0
        hidden = policy.rows(params, batch, dropout_key=dropout_key)
        logp, entropy = policy.head_logprobs(params, hidden, batch.targets, mask)
        count = mask.sum()
        used = (batch.segment > 0).sum(), jnp.float32(batch.segment.size)
        metrics = {"entropy": (entropy.sum(), count), "used": used}
        return weighted_nll(logp, batch.weight).sum(), count, metrics

    return loss


COLUMNS = (
    Column("loss", "nats", "loss", "{:.4f}", 8),
    Column("update", "tokens/s", "update_tok_s", "{:,.0f}", 9),
    SPEED,
)


class SupervisedStage(BaseStage):
    """A supervised stage; `cotjax.interfaces.Stage` says what the members do.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained.
      train: records.
      held_out: what it is evaluated on.
      encode: a record to a row; see `supervised_batches`.
      notes: one sentence each, for the run's log.
    """

    columns = COLUMNS
    keeps_start = False

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        train: Records,
        held_out: list[Record],
        encode: Encode,
        *,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_divides(mesh, config.batch.size, "batch.size")
        super().__init__(config, mesh, student, held_out)
        use = preflight.evaluation_use(config, student, mesh, len(held_out))
        self.notes += (*notes, *preflight.check_fits(student, mesh, use))
        self.learn_from(make_loss(student.policy), config.steps)
        self.root = jax.random.key(config.seed)
        self.data = supervised_batches(
            train,
            encode,
            seed=config.seed,
            batch_size=config.batch.size,
            sequence_length=config.batch.sequence_length,
            rows=processes.fed_rows(mesh, config.batch.size),
            workers=config.data.workers,
            place=self._place,
        )

    def _place(self, batch: TokenBatch) -> tuple[TokenBatch, tuple[str, ...]]:
        """The batch on the devices of all processes, and alarms about this one's rows."""
        targets, weight, segment = map(np.asarray, (batch.targets, batch.weight, batch.segment))
        found = guards.supervised_end_check(targets, weight, segment, self.student.eos_id)
        return processes.assemble(self.mesh, batch, self.config.batch.size), found

    def programs(self) -> Sequence[Program]:
        """Those of every stage, and the update."""
        return (*super().programs(), *self.update_programs([micro_shape(self.config, self.mesh)]))

    def next_step(self, params: Any, step: int) -> Step:
        """A packed batch and the key of its dropout; `params` do not matter."""
        del params
        began = time.perf_counter()
        batch, found = next(self.data)
        waited = time.perf_counter() - began
        metrics = {"batch_tokens": batch.tokens.size, "data_wait_s": waited}
        key = dropout_key(self.config, self.mesh, jax.random.fold_in(self.root, step))
        return Step([(batch, key)], metrics, [], " ".join(found))


def micro_shape(config: Config, mesh: Mesh) -> tuple[TokenBatch, Any]:
    """The shapes of a batch of rows and of the key of its dropout, as `make_loss` takes them."""
    rows = shapes.token_batch(mesh, config.batch.size, config.batch.sequence_length)
    return rows, dropout_key_shape(config, mesh)


def dropout_key_shape(config: Config, mesh: Mesh) -> Any:
    """The shape of `dropout_key`."""
    return shapes.whole_key(mesh) if config.lora.rank and config.lora.dropout else None


def dropout_key(config: Config, mesh: Mesh, key: Any) -> Any:
    """The key of an adapter's dropout on every device; None without dropout."""
    if config.lora.rank and config.lora.dropout:
        return parallel.replicate(mesh, key)
    return None
