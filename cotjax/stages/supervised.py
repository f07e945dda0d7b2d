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
from cotjax.core.chunked.losses import chunked_divergence
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
from cotjax.student.drift import StyleDrift
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import check_rows
from cotjax.student.solution_loss import SolutionLoss
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

    def longest(self, record: Record) -> int:
        """The length of the row, tokens."""
        return self.length(record, self.prompts.solve(record.question))

    def length(self, record: Record, prompt: str) -> int:
        """The length of the solution's row behind a prompt, tokens."""
        target = self.tokens.encode(_target(record.steps, record.answer), again=True)
        return len(self.tokens.encode(prompt)) + len(target)

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


def make_loss(policy: Policy, *, kl_coefficient: float = 0.0) -> LossFn:
    """Cross-entropy of targets times their weight, over the number of targets that count.

    With a coefficient the KL of the policy from the start, `KL(start ‖ policy)` in the mean over
    the same tokens, is added so many times: what the start knew, the policy goes on to expect.

    Args:
      policy: the decoder.
      kl_coefficient: needs the parameters of the start as the loss's reference, if it is not 0.
    """

    def loss(
        params: Any, reference: Any, micro: tuple[TokenBatch, Any]
    ) -> tuple[Array, Array, dict[str, SumCount]]:
        batch, dropout_key = micro
        mask = batch.weight > 0
        hidden = policy.rows(params, batch, dropout_key=dropout_key)
        logp, entropy = policy.head_logprobs(params, hidden, batch.targets, mask)
        count = mask.sum()
        used = (batch.segment > 0).sum(), jnp.float32(batch.segment.size)
        metrics = {"entropy": (entropy.sum(), count), "used": used}
        total = weighted_nll(logp, batch.weight).sum()
        if kl_coefficient:
            kl = _kl_to_start(policy, params, hidden, reference, batch)
            total += kl_coefficient * kl
            metrics["kl"] = kl, count
        return total, count, metrics

    return loss


def _kl_to_start(
    policy: Policy, params: Any, hidden: Array, reference: Any, batch: TokenBatch
) -> Array:
    """Σ KL(start ‖ policy) over the target tokens, nats, between whole distributions."""
    start = policy.without_adapter
    head, theirs = policy.head(params, whole=True), start.head(reference, whole=True)
    return chunked_divergence(
        "forward_kl",
        start.rows(reference, batch),
        theirs.matrix,
        hidden,
        head.matrix,
        chunk_size=policy.tokens_at_once(head.size),
        mask=batch.weight > 0,
        softcap=head.softcap,
        teacher_softcap=[theirs.softcap],
        parts=policy.parts_of_a_sum(head.size),
    ).sum()


def with_rows_that_fit(
    train: Records, config: Config, length: Callable[[Record], int]
) -> tuple[Records, tuple[str, ...]]:
    """The records of files without those whose rows may be too long, and a note of these.

    Raises:
      InputError: see `records.check_rows`.
    """
    before = len(train)
    train = train.checked(lambda records: check_rows(records, config, length))
    if not (without := before - len(train)):
        return train, ()
    limit = config.batch.sequence_length
    return train, (
        f"Left out {without} of {before} records, whose rows may be longer than "
        f"batch.sequence_length = {limit}.",
    )


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
        use = preflight.evaluation_use(config, student, len(held_out))
        self.notes += (*notes, *preflight.check_fits(student, use))
        kl = config.supervised.kl_coefficient
        self.keeps_start = bool(kl) and not config.lora.rank
        if self.keeps_start:
            self.notes += (preflight.start_kept("supervised.kl_coefficient", kl, student),)
        loss = make_loss(student.policy, kl_coefficient=kl)
        self.learn_from(loss, config.steps, scores_reference=bool(kl))
        rows, length = config.batch.size, config.batch.sequence_length
        self._solutions = SolutionLoss(mesh, student, rows=rows, length=length)
        found = [self._solutions.encode(record) for record in held_out]
        self._fitting = [one for one in found if len(one["tokens"]) <= length]
        if without := len(found) - len(self._fitting):
            self.notes += (
                f"solve_loss leaves {without} of {len(found)} held-out solutions out, longer than "
                f"batch.sequence_length = {length}.",
            )
        self.drift = StyleDrift(student, self._solutions, length, listed=bool(self._fitting))
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
        """Those of every stage, the loss of held-out solutions, and the update."""
        lengths = [self.config.batch.sequence_length] if self._fitting else []
        scored = self._solutions.programs("loss of held-out solutions", lengths)
        update = self.update_programs([micro_shape(self.config, self.mesh)])
        return (*super().programs(), *scored, *update)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """As every stage, and `solve_loss`.

        That is the mean −log q of the tokens of the held-out solutions, each behind its bare
        question, in nats.
        """
        numbers, rows = super().evaluate(params)
        if self._fitting:
            nll, tokens = self._solutions(params, self._fitting)
            numbers = numbers | {"solve_loss": float(nll.sum() / tokens.sum())}
        return numbers, rows

    def next_step(self, params: Any, step: int) -> Step:
        """A packed batch and the key of its dropout; `params` do not matter."""
        del params
        began = time.perf_counter()
        batch, found = next(self.data)
        waited = time.perf_counter() - began
        metrics = {"batch_tokens": batch.tokens.size, "data_wait_s": waited}
        key = dropout_key(self.config, self.mesh, jax.random.fold_in(self.root, step))
        return Step([(batch, key)], metrics, [], "\n".join(found))


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
