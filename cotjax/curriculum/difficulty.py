"""How hard examples are, by their solutions or by the student's loss and pass rate."""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, Plugin, plugin, required_arguments
from cotjax.core.curriculum import rank_fusion
from cotjax.cot import Rationale, cot_difficulty
from cotjax.interfaces import Program, Record
from cotjax.parallel import processes
from cotjax.progress import Progress
from cotjax.rollout.plan import Sampling
from cotjax.storage import append_whole
from cotjax.student.generate import complete, completing_programs, prompts_at_once
from cotjax.student.load import LoadedPolicy
from cotjax.student.mining import as_line, read_lines
from cotjax.student.records import prompt_tokens
from cotjax.student.solution_loss import BLOCK, SolutionLoss

ROWS = 16  # scored at once where a stage has no packed rows of its own


def _progress(what: str, of: Sequence[Any], unit: str, at_once: int = 1) -> Progress:
    return Progress(what, len(of), unit, quiet=not processes.is_first(), at_once=at_once)


class Difficulty:
    """The signals that order a curriculum; all are greater for harder examples.

        cot_steps, cot_tokens, cot_operations   of the solution, see `cot_difficulty`
        student_loss                            mean −log q of the solution's tokens, nats
        pass_rate                               share of the student's samples that are wrong
        rank_fusion                             several of them, by rank
        a user's function                       of a record, or of the student and the records

    Args:
      config: of the run.
      mesh: of the run.
      student: the model whose loss and pass rate count.
      rows: scored at once.
      length: tokens a row, which every example must fit; 0 = as long as the longest needs.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        *,
        rows: int = ROWS,
        length: int = 0,
    ) -> None:
        self._config, self._mesh, self._student = config, mesh, student
        self._length = length
        self._solutions = SolutionLoss(mesh, student, rows=rows, length=length)
        self._sampled_tokens = 0
        self._sampling = Sampling(
            group_size=config.curriculum.samples,
            max_new_tokens=config.rollout.max_new_tokens,
            **student.ends,
            temperature=config.rollout.temperature,
        )

    def __call__(
        self, params: Any, records: Sequence[Record], *, kept_in: pathlib.Path | None = None
    ) -> np.ndarray:
        """Difficulty of some examples, [n] float64.

        Args:
          params: what is trained of the student.
          records: the examples.
          kept_in: a run folder whose student began with these parameters. Pass rates, which cost
            the most, are kept in its pass_rate.jsonl, and a stopped run goes on where it was.

        Raises:
          PluginError: a user's function raised, or gave something else; names the record.
        """
        own = plugin(self._config, "curriculum.difficulty")
        if own is not None:
            return self._of_user(own, params, records)
        signals = [self.signal(name, params, records, kept_in) for name in self._signals()]
        fused = self._config.curriculum.difficulty == "rank_fusion"
        return rank_fusion(*signals) if fused else signals[0]

    def _signals(self) -> tuple[str, ...]:
        curriculum = self._config.curriculum
        if plugin(self._config, "curriculum.difficulty") is not None:
            return ()  # what it compiles is the user's own
        fused = curriculum.difficulty == "rank_fusion"
        return curriculum.signals if fused else (curriculum.difficulty,)

    def programs(self, records: Sequence[Record], *, some: bool = False) -> Iterator[Program]:
        """What measuring these examples compiles.

        Args:
          records: the examples.
          some: whether only some of them will be measured.
        """
        signals, student = self._signals(), self._student
        if "student_loss" in signals:
            solutions = self._solutions
            lengths = [solutions.row_length([solutions.encode(record) for record in records])]
            if some and not self._length:
                lengths = list(range(BLOCK, lengths[0] + 1, BLOCK))
            yield from solutions.programs("the student's loss", lengths)
        if "pass_rate" in signals:
            yield from completing_programs(
                *("the student's pass rate", student, self._config, self._mesh),
                settings=self._sampling,
                completions=self._config.eval.batch_size,
                records=self._most_records,
            )

    def _of_user(self, own: Plugin, params: Any, records: Sequence[Record]) -> np.ndarray:
        if required_arguments(own.found) != 2:
            needs, found = "it needs to give a finite number. Return float(…).", []
            with _progress("measuring difficulty", records, "examples") as progress:
                for one in records:
                    found.append(own.number(own(one, record=one.id), needs, one.id))
                    progress.advance()
            return np.array(found)
        gave = own(self._student.holding(params), list(records))
        needs = f"it needs to give {len(records)} finite numbers, one for each record. Return them."
        try:
            difficulty = np.asarray(gave, float)
        except (TypeError, ValueError):
            raise own.refuse(gave, needs) from None
        if difficulty.shape != (len(records),) or not np.isfinite(difficulty).all():
            raise own.refuse(gave, needs)
        return difficulty

    def signal(
        self,
        name: str,
        params: Any,
        records: Sequence[Record],
        kept_in: pathlib.Path | None = None,
    ) -> np.ndarray:
        """One signal of some examples, [n] float64; see `__call__`."""
        if name == "student_loss":
            return self.student_loss(params, records)
        if name == "pass_rate":
            return self.failure_rate(params, records, kept_in)
        kind: Any = name
        return np.array([self._from_text(kind, record) for record in records])

    def _from_text(self, kind: Any, record: Record) -> float:
        def count(text: str) -> int:
            return len(self._student.tokenizer.encode(text, add_special_tokens=False))

        rationale = Rationale(steps=record.steps, answer=record.answer)
        return cot_difficulty(rationale, signal=kind, count_tokens=count)

    def student_loss(self, params: Any, records: Sequence[Record]) -> np.ndarray:
        """Mean −log q of each example's target tokens, nats."""
        examples = [self._solutions.encode(record) for record in records]
        with _progress("measuring the student's loss", examples, "examples") as progress:
            nll, tokens = self._solutions(params, examples, progress.advance)
        return (nll / np.maximum(tokens, 1)).astype(float)

    def take_tokens(self) -> int:
        """Tokens that were sampled for pass rates, with their prompts, since this was asked last.

        Those that an earlier part of the run sampled, and whose rates are kept, count again: they
        are what the order of the data has cost.
        """
        taken, self._sampled_tokens = self._sampled_tokens, 0
        return taken

    @property
    def _most_records(self) -> int:
        """Of one call of `failure_rate`: later calls may have fewer, and share its program."""
        return self._config.curriculum.examples or self._config.eval.batch_size

    def failure_rate(
        self, params: Any, records: Sequence[Record], kept_in: pathlib.Path | None = None
    ) -> np.ndarray:
        """Share of wrong answers among the student's samples for each example.

        Args:
          params: what is trained of the student.
          records: the examples.
          kept_in: see `__call__`.
        """
        path = kept_in / "pass_rate.jsonl" if kept_in and processes.is_first() else None
        lines = processes.gather(read_lines(path, ("id", "pass_rate")) if path else [])[0]
        pairs = zip(lines, records, strict=False)
        known = itertools.takewhile(lambda pair: pair[0]["id"] == pair[1].id, pairs)
        found = [line for line, _ in known]
        rates = [line["pass_rate"] for line in found]
        tokens = sum(line.get("tokens", 0) for line in found)
        left, most = records[len(rates) :], self._config.eval.batch_size
        judged = complete(
            self._student,
            self._config,
            self._mesh,
            params,
            left,
            settings=self._sampling,
            completions=most,
            first=len(rates),
            of=self._most_records,
        )
        rollout_mesh, group_size = self._student.rollout_mesh, self._sampling.group_size
        at_once = prompts_at_once(most, group_size, rollout_mesh, self._most_records)
        with _progress("measuring pass rates", left, "questions", at_once) as progress:
            for record, group in zip(left, judged, strict=True):
                rates.append(float(np.mean([one.parts["correct"] for one in group])))
                asked = prompt_tokens(self._student.tokenizer, self._student.prompts, [record])
                used = asked + sum(one.tokens for one in group)  # the prompt is read once
                line = {"id": record.id, "pass_rate": rates[-1], "tokens": used}
                if path:
                    append_whole(path, as_line(line))
                tokens += used
                progress.advance()
        self._sampled_tokens += tokens
        return 1 - np.array(rates)
