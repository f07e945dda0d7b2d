"""Failure mining: which questions the student does not solve, however often it tries.

Every question tried is a line of mined.jsonl in the run folder, so that a stopped run goes on where
it was; random numbers depend on the seed and the question's index only.
"""

import dataclasses
import json
import pathlib
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.errors import NothingToDo
from cotjax.interfaces import Program, Record, Source
from cotjax.parallel import processes
from cotjax.progress import Progress
from cotjax.rollout.plan import Sampling
from cotjax.storage import append_whole, whole_rows, write_whole
from cotjax.student.generate import complete, completing_programs, prompts_at_once
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import prompt_tokens
from cotjax.training.evaluation import JudgedCompletion

Outcome = Literal["solved", "failed", "truncated"]
NEEDS = "index", "id", "outcome", "attempts", "cut", "tokens"  # of a line of mined.jsonl
KEY = 2**31 - 1  # folded into the seed's key; no step has this number


def outcome(attempts: Sequence[JudgedCompletion]) -> Outcome:
    """What the attempts at one question amount to.

    One right attempt solves it. Else it failed, if an attempt came to its end: attempts that the
    limit cut off decide nothing, and a question with no other kind is neither.
    """
    if any(one.parts["correct"] for one in attempts):
        return "solved"
    return "failed" if any(one.ended for one in attempts) else "truncated"


@dataclasses.dataclass(frozen=True)
class Mined:
    """What mining found.

    Attributes:
      failures: the persistent failures, in the order of the source.
      outcomes: questions by outcome.
      attempts: attempts at all questions.
      cut: those that the token limit cut off.
      tokens: of all attempts, and of each question's prompt once.
    """

    failures: list[Record]
    outcomes: Counter[Outcome]
    attempts: int
    cut: int
    tokens: int

    def __str__(self) -> str:
        """A sentence for the run's log."""
        return (
            f"Mining: of {self.outcomes.total()} questions {self.outcomes['solved']} are solved, "
            f"{self.outcomes['failed']} are persistent failures and "
            f"{self.outcomes['truncated']} are neither, for the token limit cut off every attempt; "
            f"it cut off {self.cut} of {self.attempts} attempts in all."
        )


def mine(
    student: LoadedPolicy, config: Config, mesh: Mesh, train: Source, folder: pathlib.Path
) -> Mined:
    """Tries the first `mining.questions` records; the student is the one that the run begins with.

    Raises:
      NothingToDo: no question is a persistent failure.
    """
    path = folder / "mined.jsonl"
    count = min(config.mining.questions, len(train))
    first = processes.is_first()
    known = {
        line["index"]: line
        for line in processes.gather(read_lines(path, NEEDS) if first else [])[0]
    }
    mesh_of = student.rollout_mesh
    size = prompts_at_once(config.mining.batch_size, config.mining.attempts, mesh_of, count)
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    chunks = [numbers for numbers in chunks if not all(one in known for one in numbers)]
    with Progress("mining", sum(map(len, chunks)), "questions", quiet=not first) as progress:
        for numbers in chunks:
            tried = _try(student, config, mesh, train, numbers, count)
            lines = [_line(n, train[n], one) for n, one in zip(numbers, tried, strict=True)]
            for line in lines:
                asked = prompt_tokens(student.tokenizer, student.prompts, [train[line["index"]]])
                line["tokens"] += asked  # all attempts read it once
            if first:
                append_whole(path, "".join(map(as_line, lines)))
            known |= {line["index"]: line for line in lines}
            progress.advance(len(numbers))
    lines = [known[number] for number in range(count)]
    found = Mined(
        [train[line["index"]] for line in lines if line["outcome"] == "failed"],
        Counter(line["outcome"] for line in lines),
        sum(line["attempts"] for line in lines),
        sum(line["cut"] for line in lines),
        sum(line["tokens"] for line in lines),
    )
    if not found.failures:
        raise NothingToDo(
            f"mining.questions = {config.mining.questions}: nothing to rewrite. {found} "
            "Raise mining.questions or mining.max_new_tokens, or set mining.questions = 0 to "
            "rewrite every record."
        )
    return found


def _try(
    student: LoadedPolicy, config: Config, mesh: Mesh, train: Source, numbers: range, count: int
) -> list[list[JudgedCompletion]]:
    """The judged attempts at some of `count` questions."""
    return list(
        complete(
            student,
            config,
            mesh,
            student.params,
            [train[number] for number in numbers],
            settings=_sampling(student, config),
            completions=config.mining.batch_size,
            of=count,
            key=jax.random.fold_in(jax.random.key(config.seed), KEY),
            first=numbers.start,
        )
    )


def _sampling(student: LoadedPolicy, config: Config) -> Sampling:
    return Sampling(
        group_size=config.mining.attempts,
        max_new_tokens=config.mining.max_new_tokens,
        **student.ends,
        temperature=config.mining.temperature,
        greedy_first=True,
    )


def mining_programs(
    student: LoadedPolicy, config: Config, mesh: Mesh, train: Source
) -> Iterator[Program]:
    """What `mine` compiles."""
    return completing_programs(
        *("mining", student, config, mesh),
        settings=_sampling(student, config),
        completions=config.mining.batch_size,
        records=min(config.mining.questions, len(train)),
    )


def _line(number: int, record: Record, attempts: Sequence[JudgedCompletion]) -> dict[str, Any]:
    return {
        "index": number,
        "id": record.id,
        "outcome": outcome(attempts),
        "attempts": len(attempts),
        "correct": int(sum(one.parts["correct"] for one in attempts)),
        "cut": sum(not one.ended for one in attempts),
        "tokens": sum(one.tokens for one in attempts),
    }


def as_line(row: dict[str, Any]) -> str:
    """A line for `read_lines`: the object with a sum, by which a changed byte is found."""
    return json.dumps({**row, "sum": _sum(row)}) + "\n"


def read_lines(path: pathlib.Path, needs: Sequence[str]) -> list[dict[str, Any]]:
    """The lines; one that a killed run cut off, or that is damaged, is dropped from the file.

    Args:
      path: of the file.
      needs: names that each object has.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = [(line, row) for line, row in whole_rows(data, needs) if _is_as_written(row)]
    if (kept := b"".join(line for line, _ in whole)) != data:
        write_whole(path, kept)
    return [row for _, row in whole]


def _is_as_written(row: dict[str, Any]) -> bool:
    """Takes the sum out of an object; one of an earlier version has none."""
    return row.pop("sum", None) in (None, _sum(row))


def _sum(row: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(row).encode()):08x}"
