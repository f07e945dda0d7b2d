"""Writes the top-K teacher-logit cache of a run's examples."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from jaxtyping import Float, Int

from cotjax.config import Config
from cotjax.core.chunked.blocks import Cut
from cotjax.core.topk import topk_and_rest
from cotjax.curriculum.dataset import DistillDataset
from cotjax.data.packing import Span, pack_in_order
from cotjax.errors import NotFinite
from cotjax.interfaces import TokenBatch
from cotjax.models.head import Head
from cotjax.parallel import sharding as parallel
from cotjax.progress import Progress
from cotjax.student.load import load_policy
from cotjax.teachers.context import TeacherContext
from cotjax.teachers.logit_store import (
    StoreWriter,
    TopKLogits,
    decode_logp,
    encode_logp,
    shard_name,
)
from cotjax.teachers.pool import TeacherPool, given_to, read_rows

SHARD_EXAMPLES = 1024


@functools.partial(jax.jit, static_argnames=("k", "chunk_size"))
def top_logprobs(
    hidden: Float[Array, "B S D"],
    columns: Int[Array, "B C"],
    head: Head,
    temperature: float,
    *,
    k: int,
    chunk_size: int,
) -> tuple[Float[Array, "B C K"], Int[Array, "B C K"], Float[Array, "B C"], Float[Array, "B C"]]:
    """The K likeliest tokens of positions in each row, without all logits at once.

    Returns:
      log-probabilities over the whole vocabulary, ids, the logarithm of the other tokens' mass, and
      Σ p log p of the other tokens, all in nats.
    """
    hidden = jnp.take_along_axis(hidden, columns[..., None], axis=1)
    cut = Cut.of(hidden, chunk_size)

    def one(hidden: Array) -> tuple[Array, ...]:
        return topk_and_rest(head(hidden) / temperature, k)

    top, ids, log_rest, plogp = jax.tree.map(cut.join, lax.map(one, cut.split(hidden)))
    return top, ids, log_rest, plogp


def kl_of_cache(
    top: np.ndarray, log_rest: np.ndarray, plogp: np.ndarray, *, others: int, dtype: Any
) -> np.ndarray:
    """KL of the whole teacher from what a cache keeps of it, per position, nats.

    The cache's distribution has the rounded top tokens, and spreads the rest's mass evenly over the
    `others` tokens.
    """
    top, log_rest = top.astype(np.float64), log_rest.astype(np.float64)
    rounded = decode_logp(encode_logp(top, dtype)).astype(np.float64)
    rest = np.exp(log_rest.astype(np.float16).astype(np.float64))
    rounded += np.log(np.maximum(1 - rest, 1e-6) / np.exp(rounded).sum(axis=-1))[:, None]
    inside = (np.exp(top) * (top - rounded)).sum(axis=-1)
    even = np.log(np.maximum(rest, 1e-12) / max(others, 1))
    return inside + plogp - np.exp(log_rest) * even


@dataclasses.dataclass(frozen=True)
class Written:
    """What a cache holds in the end.

    Attributes:
      shards: written or found.
      positions: counted tokens.
      bytes: of all shards.
      kl: mean KL of the teachers from what is stored, nats per position.
      forward_s: seconds spent waiting for the teachers.
      seconds: of everything that this process wrote.
    """

    shards: int
    positions: int
    bytes: int
    kl: float
    forward_s: float
    seconds: float


def cache_logits(config: Config, mesh: Mesh, folder: Path) -> Written:
    """Writes the scheduled teachers' logits, each for the buckets in which it has weight.

    A shard is a part of a bucket and a teacher; processes divide them among each other, and those
    that are there stay.

    Raises:
      NotFinite: a weight or a log-probability that is NaN.
      InputError: as `DistillDataset` and `TeacherPool`, or another cache in the folder.
    """
    student = load_policy(config, mesh)
    dataset = DistillDataset(config, mesh, student)
    teachers = TeacherPool(config, mesh, student.tokenizer, slots=1, end=student.eos_id)
    context = dataset.context(teachers)
    curriculum = dataset.curriculum
    curriculum.prepare(student.params, 0)
    writer = StoreWriter(folder, dataset.manifest(teachers))
    began, entries, spent = time.perf_counter(), [], [0.0]
    shards = [
        (shard_name(teacher, bucket, part), teacher, examples[start : start + SHARD_EXAMPLES])
        for bucket, teacher in sorted(curriculum.pairs(), key=lambda pair: pair[::-1])
        for examples in [np.flatnonzero(curriculum.bucket == bucket)]
        for part, start in enumerate(range(0, len(examples), SHARD_EXAMPLES))
    ]
    own = [
        shard
        for number, shard in enumerate(shards, 1)
        if number % jax.process_count() == jax.process_index() and not writer.has(shard[0])
    ]
    total, quiet = sum(len(examples) for *_, examples in own), jax.process_index() > 0
    with Progress("computing teacher logits", total, "examples", quiet=quiet) as progress:
        for name, teacher, examples in own:
            teachers.keep_only([teacher])
            numbers = {"kl": 0.0}
            logits = _logits(dataset, teachers, context, teacher, examples, numbers, spent)
            entries.append(writer.write(name, _told(logits, progress), numbers))
    positions = sum(entry["positions"] for entry in entries)
    return Written(
        shards=len(entries),
        positions=positions,
        bytes=sum(entry["bytes"] for entry in entries),
        kl=sum(entry["kl"] for entry in entries) / max(positions, 1),
        forward_s=spent[0],
        seconds=time.perf_counter() - began,
    )


def _told(items: Iterator[Any], progress: Progress) -> Iterator[Any]:
    """Each item, which is then counted as done."""
    for item in items:
        yield item
        progress.advance()


def _logits(
    dataset: DistillDataset,
    teachers: TeacherPool,
    context: TeacherContext,
    teacher: int,
    examples: np.ndarray,
    numbers: dict[str, float],
    spent: list[float],
) -> Iterator[tuple[int, TopKLogits]]:
    """A teacher's logits for each example; adds to `numbers` and to the seconds `spent`."""
    config, head = dataset.config, teachers[teacher].head
    size, k = config.batch, config.teachers.top_k
    chunk = dataset.student.policy.tokens_at_once(head.size)

    def run(batch: TokenBatch, spans: list[Span]) -> tuple[Array, ...]:
        columns = counted_columns(np.asarray(batch.weight) > 0)
        placed, columns = parallel.shard(dataset.mesh, (batch, columns))
        own = context.placed(dataset.mesh, [teacher], batch, spans, dataset.records)
        given = given_to(teacher, placed, read_rows, own)
        hidden, temperature = teachers.hidden(teacher, *given), config.distill.temperature
        return top_logprobs(hidden, columns, head, temperature, k=k, chunk_size=chunk)

    batches = packed(dataset, examples, size.size, size.sequence_length)
    for rows, spans, outputs in _one_ahead(
        (rows, spans, run(rows, spans)) for rows, spans in batches
    ):
        began = time.perf_counter()
        top, ids, log_rest, plogp = (np.asarray(part) for part in outputs)
        spent[0] += time.perf_counter() - began
        counted = rows.weight > 0
        kept = np.arange(top.shape[1]) < counted.sum(axis=1)[:, None]
        if wrong := int(np.isnan(top[kept]).any(axis=-1).sum()):
            raise NotFinite(
                f"teacher {teachers.names[teacher]}: its log-probabilities at {wrong} of "
                f"{int(kept.sum())} positions are NaN, so they are not written. Set teachers.dtype "
                '= "float32", or teachers.paths to others.'
            )
        kl = kl_of_cache(
            top[kept],
            log_rest[kept],
            plogp[kept],
            others=head.size - k,
            dtype=config.teachers.cache_dtype,
        )
        numbers["kl"] += float(kl.sum())
        for span in spans:
            first, last = (counted[span.row, :end].sum() for end in (span.start, span.stop))
            inside = span.row, slice(first, last)
            yield span.example, TopKLogits(*(part[inside] for part in (ids, top, log_rest)))


def counted_columns(counted: np.ndarray) -> np.ndarray:
    """Where each row's counted positions are: [B, C], in order, then any others.

    C is one of 16 sizes, so that few programs are compiled.

    Example:
      >>> counted_columns(np.array([[False, True, False, True]]))
      array([[1, 3]], dtype=int32)
    """
    length = counted.shape[1]
    step = -(-length // 16)
    most = -(-max(int(counted.sum(axis=1).max()), 1) // step) * step
    return np.argsort(~counted, axis=1, kind="stable")[:, : min(most, length)].astype(np.int32)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Each item when the next one has been begun: the teacher goes on while this process writes."""
    last = next(items, None)
    for item in items:
        yield last
        last = item
    if last is not None:
        yield last


def packed(
    dataset: DistillDataset, examples: np.ndarray, rows: int, length: int
) -> Iterator[tuple[TokenBatch, list[Span]]]:
    """All examples as full batches of rows, and where each lies."""
    left = [(int(i), dataset.encode(int(i))) for i in examples]
    while left:
        batch, spans = pack_in_order(left, rows, length)
        yield batch, spans
        done = {span.example for span in spans}
        left = [(index, example) for index, example in left if index not in done]
