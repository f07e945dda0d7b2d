"""What teachers are shown beside the question: rows of their own, as long as that makes them.

A teacher `PATH@C` scores the same target tokens after a longer prompt, so its rows are longer than
the student's, example by example in the same order. Its hidden states go back to the places where
the student predicts these tokens, and a loss meets both side by side:

    student   q1 q2 t1 t2              S columns
    teacher   q1 q2 h1 h2 h3 t1 t2     S' ≥ S columns
    place      0  4  5  6              of the teacher's columns, for each of the student's
"""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, Int

from cotjax.config import TeacherName
from cotjax.data.encode import encode_supervised
from cotjax.data.packing import RowLimit, Span
from cotjax.errors import InputError
from cotjax.interfaces import Record, TokenBatch
from cotjax.models.policy import Policy
from cotjax.parallel import shapes
from cotjax.parallel import sharding as parallel
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import solution
from cotjax.teachers.teacher_plan import TeacherPlan

KEPT = 2**15  # prompts whose tokens are kept
PARTS = 8  # rows are lengthened by eighths, so that few programs are compiled


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShownRows:
    """A teacher's own rows for a batch of the student's.

    Attributes:
      batch: [B, S'].
      place: [B, S] the column of `batch` that predicts what the student's column predicts; 0 where
        that does not count.
    """

    batch: TokenBatch
    place: Int[Array, "B S"]


def read_shown(policy: Policy, params: Any, shown: ShownRows) -> Float[Array, "B S D"]:
    """Hidden states of a teacher's own rows, in the student's places."""
    hidden = policy.rows(params, shown.batch)
    return jnp.take_along_axis(hidden, shown.place[..., None], axis=1)


class TeacherContext:
    """What the teachers of a run are shown of the reference rationales.

    Args:
      names: the entries of `teachers.paths`, read.
      plans: of the same teachers.
      student: whose prompts all of them see.
      records: all whose texts may be scored.
      length: S, tokens of the student's rows.

    Raises:
      InputError: no record has steps to show, or a text is longer than a teacher's context.

    Attributes:
      length: S' of each teacher that is shown steps, by its number.
    """

    def __init__(
        self,
        names: Sequence[TeacherName],
        plans: Sequence[TeacherPlan],
        student: LoadedPolicy,
        records: Sequence[Record],
        length: int,
    ) -> None:
        self._names, self._student = names, student
        self._ids = functools.lru_cache(KEPT)(self._encode)
        shown = [k for k, name in enumerate(names) if name.share]
        self.length = {k: length for k in shown}
        if shown and not any(record.steps for record in records):
            raise InputError(
                f"{_shown(plans[shown[0]], names[shown[0]])}: no record has steps that a teacher "
                "could be shown. Give records with rationales, or leave the share out."
            )
        sizes = [self._sizes(record) for record in records] if shown else []
        for k in shown:
            where = _shown(plans[k], names[k])
            self.length[k] = self._row_length(k, plans[k], where, records, sizes, length)

    def _row_length(
        self,
        teacher: int,
        plan: TeacherPlan,
        where: str,
        records: Sequence[Record],
        sizes: Sequence[tuple[int, int]],
        length: int,
    ) -> int:
        """S' that holds what S holds, whichever examples these are."""
        own = [
            self._own_length(teacher, record, targets)
            for record, (_, targets) in zip(records, sizes, strict=True)
        ]
        longest, limit = max(own), plan.student.architecture.max_positions
        if longest > limit:
            raise InputError(
                f"{where}: {records[own.index(longest)].id} then has {longest} tokens, more than "
                f"the teacher's context of {limit}. Lower the share or remove the record."
            )
        most = max(-(-length * more // size) for more, (size, _) in zip(own, sizes, strict=True))
        part = -(-length // PARTS)
        return max(length, -(-most // part) * part)

    def _sizes(self, record: Record) -> tuple[int, int]:
        """Tokens of a record's row, and of its target."""
        example = encode_supervised(
            *(self._student.tokenizer, self._student.prompts.solve(record.question)),
            solution(record),
            eos_id=self._student.eos_id,
            max_length=2**31,
            name=record.id,
        )
        return len(example["tokens"]), int((example["weight"] > 0).sum())

    def _encode(self, question: str, steps: tuple[str, ...]) -> np.ndarray:
        text = self._student.prompts.hint(question, steps)
        ids = self._student.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(ids, np.int32)

    def _prompt(self, teacher: int, record: Record) -> np.ndarray:
        """The ids of a teacher's prompt."""
        count = self._names[teacher].count(len(record.steps))
        return self._ids(record.question, record.steps[:count])

    def _own_length(self, teacher: int, record: Record, targets: int) -> int:
        """Tokens of a teacher's row for one example."""
        return len(self._prompt(teacher, record)) + targets - 1

    def limits(
        self, teachers: Collection[int], records: Sequence[Record], targets: Sequence[int]
    ) -> list[RowLimit]:
        """What packing has to leave space for beside the student's rows.

        Args:
          teachers: that will score the texts.
          records: of the texts.
          targets: tokens that count of each.
        """
        return [
            RowLimit(
                self.length[k],
                [self._own_length(k, *pair) for pair in zip(records, targets, strict=True)],
            )
            for k in sorted(teachers)
            if k in self.length
        ]

    def rows(
        self,
        teachers: Collection[int],
        batch: TokenBatch,
        spans: Sequence[Span],
        records: Sequence[Record],
    ) -> dict[int, ShownRows]:
        """The own rows of those teachers that have some, on the host.

        Args:
          teachers: that will score the batch.
          batch: the student's rows, on the host.
          spans: where each example lies.
          records: of the examples, by their index.
        """
        return {
            k: self._rows(k, batch, spans, records) for k in sorted(teachers) if k in self.length
        }

    def _rows(
        self, teacher: int, batch: TokenBatch, spans: Sequence[Span], records: Sequence[Record]
    ) -> ShownRows:
        size = len(batch.tokens), self.length[teacher]
        tokens, targets, segment, positions = (np.zeros(size, np.int32) for _ in range(4))
        weight, place = np.zeros(size, np.float32), np.zeros(batch.tokens.shape, np.int32)
        filled = [0] * size[0]
        for number, span in enumerate(spans, 1):
            columns = span.start + np.flatnonzero(
                np.asarray(batch.weight[span.row, span.start : span.stop]) > 0
            )
            prompt = self._prompt(teacher, records[span.example])
            row = np.concatenate([prompt, np.asarray(batch.targets[span.row, columns])])
            start, stop = filled[span.row], filled[span.row] + len(row) - 1
            inside = span.row, slice(start, stop)
            tokens[inside], targets[inside] = row[:-1], row[1:]
            weight[span.row, stop - len(columns) : stop] = 1
            segment[inside], positions[inside] = number, np.arange(stop - start)
            place[span.row, columns] = np.arange(stop - len(columns), stop)
            filled[span.row] = stop
        host: Any = (tokens, targets, weight, segment, positions)
        own: Any = place
        return ShownRows(TokenBatch(*host), own)

    def placed(
        self,
        mesh: Mesh,
        teachers: Collection[int],
        batch: TokenBatch,
        spans: Sequence[Span],
        records: Sequence[Record],
    ) -> dict[int, ShownRows]:
        """`rows` on the mesh; further arguments as for it."""
        own = self.rows(teachers, batch, spans, records)
        return {k: parallel.shard(mesh, rows) for k, rows in own.items()}

    def shapes(self, mesh: Mesh, rows: TokenBatch) -> dict[int, ShownRows]:
        """The shapes of `placed` for rows of some shapes, of every teacher that has own ones."""
        count, length = rows.tokens.shape
        return {
            k: ShownRows(
                shapes.token_batch(mesh, count, own),
                shapes.per_example(mesh, count, length, dtype=np.int32),
            )
            for k, own in self.length.items()
        }


def _shown(plan: TeacherPlan, name: TeacherName) -> str:
    """How errors name an entry."""
    return f'teachers.paths: "{plan.name}@{name.share:g}"'
