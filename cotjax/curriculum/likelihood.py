"""How likely the reference rationales are to each teacher, after what it is shown."""

import functools
from collections.abc import Iterator, Sequence

import jax
from jax import Array
from jaxtyping import Float, Int

from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.curriculum.dataset import DistillDataset
from cotjax.data.packing import Span, pack_in_order
from cotjax.interfaces import Program, Record, TokenBatch
from cotjax.models.head import Head
from cotjax.parallel import sharding as parallel
from cotjax.teachers.context import TeacherContext
from cotjax.teachers.pool import TeacherPool, given_to, read_rows


@functools.partial(jax.jit, static_argnames="chunk_size")
def total_logprob(
    hidden: Float[Array, "B S D"],
    head: Head,
    targets: Int[Array, "B S"],
    weight: Float[Array, "B S"],
    *,
    chunk_size: int,
) -> Float[Array, ""]:
    """The log-probability of all targets that count together, as a teacher sees them, nats."""
    logp, _ = chunked_token_logprobs(
        *(hidden, head.matrix, targets),
        chunk_size=chunk_size,
        softcap=head.softcap,
        mask=weight > 0,
    )
    return logp.sum()


def packed_records(
    dataset: DistillDataset, records: Sequence[Record]
) -> Iterator[tuple[TokenBatch, list[Span]]]:
    """Rows of records' own solutions, batch by batch, and where each lies."""
    size = dataset.config.batch
    left = [(place, dataset.encode_record(record)) for place, record in enumerate(records)]
    while left:
        batch, spans = pack_in_order(left, size.size, size.sequence_length)
        yield batch, spans
        done = {span.example for span in spans}
        left = [(place, example) for place, example in left if place not in done]


class Likelihood:
    """The mean log-probability of a token of problems' rationales, of each teacher.

    Args:
      dataset: of the run.
      teachers: of the run.
      context: what they are shown.
      problems: whose rationales are scored.
      chunk_size: how many tokens' logits may exist at once.
    """

    def __init__(
        self,
        dataset: DistillDataset,
        teachers: TeacherPool,
        context: TeacherContext,
        problems: Sequence[Record],
        *,
        chunk_size: int,
    ) -> None:
        self._dataset, self._teachers, self._context = dataset, teachers, context
        self._problems, self._chunk_size = problems, chunk_size

    def __call__(self, teacher: int) -> float:
        """Of a teacher, nats per token, each target's end token included."""
        total, count, mesh = 0.0, 0, self._dataset.mesh
        for batch, spans in packed_records(self._dataset, self._problems):
            placed = parallel.shard(mesh, batch)
            shown = self._context.placed(mesh, [teacher], batch, spans, self._problems)
            hidden = self._teachers.hidden(teacher, *given_to(teacher, placed, read_rows, shown))
            args = hidden, self._teachers[teacher].head, placed.targets, placed.weight
            total += float(total_logprob(*args, chunk_size=self._chunk_size))
            count += int((batch.weight > 0).sum())
        return total / max(count, 1)

    def programs(self, rows: TokenBatch) -> Iterator[Program]:
        """What it compiles for rows of some shapes, but for the teachers' own programs."""
        if not self._problems:
            return
        shown = self._context.shapes(self._dataset.mesh, rows)
        alone = [(k,) for k in range(len(self._teachers.names))]
        for outputs in self._teachers.output_shapes(rows, alone, shown=shown):
            args = outputs.hidden[0], outputs.head[0], rows.targets, rows.weight
            more = {"chunk_size": self._chunk_size}
            yield Program("how likely rationales are", total_logprob, args, more)
