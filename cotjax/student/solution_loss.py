"""The student's loss on whole solutions, each behind its bare question."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.data.encode import encode_supervised
from cotjax.data.packing import Example, pack_in_order
from cotjax.interfaces import Program, Record, TokenBatch
from cotjax.parallel import processes, shapes
from cotjax.parallel import sharding as parallel
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import solution

BLOCK = 64  # tokens; rows are a multiple as long, so that few lengths are compiled


def in_blocks(examples: Sequence[Example]) -> int:
    """Tokens of rows that hold the longest example, a multiple of `BLOCK`."""
    longest = max((len(example["tokens"]) for example in examples), default=1)
    return -(-longest // BLOCK) * BLOCK


def scored(
    mesh: Mesh,
    examples: Sequence[Example],
    rows: int,
    length: int,
    score: Callable[[TokenBatch], Any],
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[int, np.ndarray, Any]]:
    """Scores examples in packed rows: (its place, its weight [n], its scores, leaves [n]) of each.

    Args:
      mesh: over which a batch is laid.
      examples: none is longer than a row.
      rows: of a batch.
      length: tokens of a row.
      score: a batch's scores, leaves [rows, length].
      done: is told how many examples a batch had, when it is scored.
    """
    left = list(enumerate(examples))
    while left:
        batch, spans = pack_in_order(left, rows, length)
        found = processes.fetch(score(parallel.shard(mesh, batch)))
        done(len(spans))
        for span in spans:
            inside = span.row, slice(span.start, span.stop)
            own = jax.tree.map(lambda leaf, inside=inside: leaf[inside], found)
            yield span.example, np.asarray(batch.weight[inside]), own
        there = {span.example for span in spans}
        left = [(place, example) for place, example in left if place not in there]


class SolutionLoss:
    """Scores solutions in packed rows.

    Args:
      mesh: of the run.
      student: the model whose loss it is.
      rows: scored at once.
      length: tokens a row, which every example must fit; 0 = as long as the longest needs.
    """

    def __init__(self, mesh: Mesh, student: LoadedPolicy, *, rows: int, length: int = 0) -> None:
        self._mesh, self._student = mesh, student
        self._rows, self._length = rows, length
        self._score = jax.jit(self._logprobs)

    def encode(self, record: Record, *, longest: int = 2**31) -> Example:
        """A record's question as prompt and its own solution as target.

        Raises:
          InputError: more than `longest` tokens.
        """
        return encode_supervised(
            self._student.tokenizer,
            self._student.prompts.solve(record.question),
            solution(record),
            eos_id=self._student.eos_id,
            max_length=longest,
            name=record.id,
        )

    def __call__(
        self,
        params: Any,
        examples: Sequence[Example],
        done: Callable[[int], None] = lambda count: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Σ −log q of each example's target tokens in nats, and their number, [n] float32.

        Args:
          params: what is trained of the student.
          examples: of `encode`; none is longer than a row.
          done: see `scored`.
        """
        nll, tokens = np.zeros((2, len(examples)), np.float32)
        everything = self._student.all_params(params)
        score = functools.partial(self._score, everything)
        length = self.row_length(examples)
        for place, weight, logp in scored(self._mesh, examples, self._rows, length, score, done):
            nll[place] = -logp.sum()
            tokens[place] = weight.sum()
        return nll, tokens

    def row_length(self, examples: Sequence[Example]) -> int:
        """Tokens of the rows that hold some examples."""
        return self._length or in_blocks(examples)

    def programs(self, name: str, lengths: Sequence[int]) -> Iterator[Program]:
        """What scoring rows of some lengths compiles; if they are several, perhaps."""
        for length in lengths:
            args = self._student.all_shapes, shapes.token_batch(self._mesh, self._rows, length)
            yield Program(name, self._score, args, always=len(lengths) == 1)

    def _logprobs(self, params: Any, batch: TokenBatch) -> Any:
        policy = self._student.policy
        hidden = policy.rows(params, batch)
        return policy.head_logprobs(params, hidden, batch.targets, batch.weight > 0)[0]
