"""How hard examples are: for a reader of their solutions, or for the student itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.curriculum import rank_fusion
from cotjax.cot import Rationale, cot_difficulty
from cotjax.data.bucketed import Example, pack
from cotjax.interfaces import Record, TokenBatch
from cotjax.models.lora import join_adapter
from cotjax.parallel import sharding as parallel
from cotjax.rollout.plan import Sampling
from cotjax.stages import common
from cotjax.stages.completions import complete


class Difficulty:
    """The signals that order a curriculum; all are greater for harder examples.

        cot_steps, cot_tokens, cot_operations   of the solution, see `cot_difficulty`
        student_loss                            mean −log q of the solution's tokens, nats
        pass_rate                               share of the student's samples that are wrong
        rank_fusion                             several of them, by rank

    Args:
      config: of the run.
      mesh: of the run.
      student: whose loss and pass rate count.
      records: the examples.
      encode: index of an example to its arrays.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: common.Student,
        records: Sequence[Record],
        encode: Callable[[int], Example],
    ) -> None:
        self._config, self._mesh, self._student = config, mesh, student
        self._records, self._encode = records, encode
        self._score = jax.jit(self._logprobs)

    def __call__(self, params: Any, which: np.ndarray) -> np.ndarray:
        """Difficulty of some examples.

        Args:
          params: what is trained of the student.
          which: [n] indices.
        """
        curriculum = self._config.curriculum
        if curriculum.difficulty != "rank_fusion":
            return self.signal(curriculum.difficulty, params, which)
        return rank_fusion(*(self.signal(name, params, which) for name in curriculum.signals))

    def signal(self, name: str, params: Any, which: np.ndarray) -> np.ndarray:
        """One signal of some examples, [n] float64."""
        measured = {"student_loss": self.student_loss, "pass_rate": self.failure_rate}
        if name in measured:
            return measured[name](params, which)
        kind: Any = name
        return np.array([self._from_text(kind, self._records[i]) for i in which])

    def _from_text(self, kind: Any, record: Record) -> float:
        def count(text: str) -> int:
            return len(self._student.tokenizer.encode(text, add_special_tokens=False))

        rationale = Rationale(steps=record.steps, answer=record.answer)
        return cot_difficulty(rationale, signal=kind, count_tokens=count)

    def student_loss(self, params: Any, which: np.ndarray) -> np.ndarray:
        """Mean −log q of each example's target tokens, nats."""
        rows, length = self._config.sft.batch_size, self._config.sft.sequence_length
        loss, left = np.zeros(len(which)), [(n, self._encode(int(i))) for n, i in enumerate(which)]
        while left:
            batch, spans = pack(left, rows, length)
            logp = np.asarray(self._score(params, parallel.shard(self._mesh, batch)))
            for span in spans:
                inside = span.row, slice(span.start, span.stop)
                loss[span.example] = -logp[inside].sum() / max(batch.weight[inside].sum(), 1)
            done = {span.example for span in spans}
            left = [(n, example) for n, example in left if n not in done]
        return loss

    def _logprobs(self, params: Any, batch: TokenBatch) -> Any:
        policy = self._student.policy
        params = join_adapter(params, self._student.base)
        hidden = policy.rows(params, batch)
        mask = batch.weight > 0
        return common.head_logprobs(policy, params, hidden, batch.targets, mask)[0]

    def failure_rate(self, params: Any, which: np.ndarray) -> np.ndarray:
        """Share of wrong answers among the student's samples for each example."""
        config = self._config
        settings = Sampling(
            group_size=config.curriculum.samples,
            max_new_tokens=config.rollout.max_new_tokens,
            eos_id=self._student.eos_id,
            pad_id=self._student.pad_id,
            temperature=config.rollout.temperature,
        )
        judged = complete(
            self._student,
            config,
            self._mesh,
            params,
            [self._records[i] for i in which],
            settings=settings,
            completions=config.eval.batch_size,
        )
        right = [[one.parts["correct"] for one in group] for group in judged]
        return 1 - np.mean(right, axis=1)
