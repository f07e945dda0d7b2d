"""How far a student has moved from how it wrote before training."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.data.encode import encode_supervised
from cotjax.data.packing import Example
from cotjax.interfaces import End, Program
from cotjax.parallel import processes
from cotjax.storage import write_whole
from cotjax.student.load import LoadedPolicy
from cotjax.student.solution_loss import SolutionLoss

FILE = "first_answers.json"  # of a run folder
MOST = 64  # answers that are scored
WHOLE = End.EOS.name.lower(), End.STOP.name.lower()  # ends of an answer that was not cut off


class StyleDrift:
    """Scores the student's own first answers, those of the evaluation before training, again.

        drift = mean over their tokens of log q_start − log q_now,   nats

    0 before training, and the larger the less the student expects what it used to write. The
    answers are greedy, so that this is no KL; it is one number for a move that a change of mean
    length shows in part.

    Args:
      student: whose answers these are.
      solutions: scores them.
      length: tokens that a question and its answer may have.
      listed: whether someone else lists the program by which they are scored.
    """

    def __init__(
        self, student: LoadedPolicy, solutions: SolutionLoss, length: int, *, listed: bool = False
    ) -> None:
        self._student, self._solutions, self._length = student, solutions, length
        self._listed = listed
        self._file: pathlib.Path | None = None
        self._answers: list[tuple[str, str]] | None = None  # question and answer
        self._nats = 0.0
        self._lost = False

    def open(self, folder: pathlib.Path) -> None:
        """Reads what an earlier part of the run had written; without it there is no drift.

        Args:
          folder: of the run.
        """
        self._file = folder / FILE
        found = ""
        if processes.is_first():
            begun = any(folder.glob("checkpoints/*"))
            found = "lost" * begun
            if self._file.is_file():
                found = self._file.read_bytes().decode("utf-8", "replace")
                found = "lost" if "\ufffd" in found else found  # json.dumps writes ASCII
        found = processes.from_first(found)
        if not found:
            return  # a new run, whose first evaluation gives them
        try:
            row = json.loads(found)
            self._answers = [(question, answer) for question, answer in row["answers"]]
            self._nats = float(row["nats"])
        except (ValueError, KeyError, TypeError):
            self._answers, self._lost = None, True

    def __call__(self, params: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`drift`, nats a token; nothing if no first answer is known or fits.

        Args:
          params: what is trained of the student.
          rows: an evaluation's completions; taken as the first answers if none are known.
        """
        if self._lost or self._file is None:
            return {}
        first = self._answers is None
        if self._answers is None:
            ended = [(row["question"], row["completion"]) for row in rows if row["end"] in WHOLE]
            self._answers = [one for one in ended if self._encode(*one) is not None][:MOST]
        examples = [self._encode(*one) for one in self._answers]
        scored = [one for one in examples if one is not None]
        if not scored:
            return {}
        nll, tokens = self._solutions(params, scored)
        nats = float(nll.sum() / tokens.sum())
        if first:
            self._nats = nats
            if processes.is_first():
                write_whole(self._file, json.dumps({"answers": self._answers, "nats": nats}))
        return {"drift": nats - self._nats}

    def programs(self) -> Iterator[Program]:
        """What scoring the answers compiles, if there are any."""
        lengths = [] if self._listed else [self._length]
        for found in self._solutions.programs("loss of first answers", lengths):
            yield dataclasses.replace(found, always=False)

    def _encode(self, question: str, answer: str) -> Example | None:
        """The question as prompt and an answer as target; None if they are too long or empty."""
        student = self._student
        example = encode_supervised(
            student.tokenizer,
            student.prompts.solve(question),
            answer,
            eos_id=student.eos_id,
            max_length=2**31,
            name="a first answer",
        )
        fits = len(example["tokens"]) <= self._length
        return example if fits and answer else None


def drift_of(student: LoadedPolicy, mesh: Mesh, config: Config) -> StyleDrift:
    """The drift of a run whose rows have `batch.sequence_length` tokens."""
    rows, length = config.batch.size, config.batch.sequence_length
    return StyleDrift(student, SolutionLoss(mesh, student, rows=rows, length=length), length)
