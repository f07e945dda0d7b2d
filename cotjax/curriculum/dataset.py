"""The examples of a distillation run, as rows, and the curriculum that orders them."""

import hashlib
from collections.abc import Iterator
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config, TeacherName
from cotjax.curriculum.curriculum import Curriculum
from cotjax.curriculum.difficulty import Difficulty
from cotjax.data.encode import encode_supervised
from cotjax.data.packing import Example
from cotjax.data.sources import Records
from cotjax.errors import InputError
from cotjax.interfaces import Program, Record
from cotjax.student.evaluate import evaluate, evaluation_programs, without_samples
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import load_records, prompt_tokens, solution
from cotjax.teachers.context import TeacherContext
from cotjax.teachers.logit_store import Manifest
from cotjax.teachers.pool import TeacherPool
from cotjax.teachers.teacher_plan import TeacherPlan
from cotjax.teachers.vocabulary import tokenizer_hash


class DistillDataset:
    """What training and writing a logit cache have in common.

    Attributes:
      records: the examples.
      monitor: further records, on which the student is measured while it learns.
      held_out: those of the evaluation.
      difficulty: measures how hard they are.
      curriculum: their order.

    Args:
      config: of the run.
      mesh: of the run.
      student: the model that is trained.

    Raises:
      InputError: as `load_records`, or fewer examples than buckets.
    """

    def __init__(self, config: Config, mesh: Mesh, student: LoadedPolicy) -> None:
        self.config, self.mesh, self.student = config, mesh, student
        source, self.held_out = load_records(config, student.tokenizer, student.prompts)
        self.records, self.monitor = split_monitor(source, config)
        size = config.batch
        self.difficulty = Difficulty(
            config, mesh, student, rows=size.size, length=size.sequence_length
        )
        self.curriculum = Curriculum(config, self.records, self.encode, self.difficulty)
        self._asked_tokens = 0

    def encode(self, index: int) -> Example:
        """An example as arrays."""
        return self.encode_record(self.records[index])

    def encode_record(self, record: Record) -> Example:
        """A record as arrays; its target is its own solution."""
        return encode_supervised(
            self.student.tokenizer,
            self.student.prompts.solve(record.question),
            solution(record),
            eos_id=self.student.eos_id,
            max_length=self.config.batch.sequence_length,
            name=record.id,
        )

    def pass_rate(self, params: Any) -> float:
        """The student's share of right answers to the monitored records."""
        config = without_samples(self.config)
        numbers, _ = evaluate(self.student, config, self.mesh, params, self.monitor)
        student = self.student
        asked = prompt_tokens(student.tokenizer, student.prompts, self.monitor)
        self._asked_tokens += asked + round(numbers["tokens"] * len(self.monitor))
        return numbers["accuracy"]

    def mined_tokens(self, step: int) -> int:
        """Tokens that the student sampled in a step so that the data could be ordered.

        Those that a resumed run sampled for the order of its first step were counted there.
        """
        measured, asked = self.difficulty.take_tokens(), self._asked_tokens
        self._asked_tokens = 0
        return asked + (measured if self.curriculum.measured_at == step else 0)

    def context(self, teachers: TeacherPool) -> TeacherContext:
        """What the teachers are shown of the examples' rationales.

        Raises:
          InputError: see `TeacherContext`.
        """
        return TeacherContext(
            *(teachers.entries, teachers.plans, self.student),
            records=[*self.records, *self.monitor],
            length=self.config.batch.sequence_length,
        )

    def programs(self) -> Iterator[Program]:
        """What the order, the schedule and `pass_rate` compile."""
        yield from self.difficulty.programs(self.records)
        yield from self.curriculum.schedule.programs()
        settings = self.config.curriculum
        if settings.schedule == "adaptive" and settings.pass_rate < 1:
            yield from evaluation_programs(
                *(self.student, without_samples(self.config), self.mesh, len(self.monitor)),
                name="the pass rate on monitored records",
                always=self.config.steps > settings.check_every,
            )

    def manifest(self, teachers: TeacherPool) -> Manifest:
        """The manifest of a logit cache for this run, whose examples are sorted by now."""
        settings = self.config.teachers
        data = hashlib.sha256(self.curriculum.bucket.astype("<i8").tobytes())
        for index in range(len(self.records)):
            example = self.encode(index)
            data.update(example["tokens"].astype("<i4").tobytes())
            data.update(example["weight"].astype("<f4").tobytes())
        template = self.student.prompts.solve("2+2?")
        return Manifest(
            tokenizer=tokenizer_hash(self.student.tokenizer),
            template=hashlib.sha256(template.encode()).hexdigest()[:16],
            data=data.hexdigest()[:16],
            vocab_size=teachers.vocab_size,
            top_k=settings.top_k,
            temperature=self.config.distill.temperature,
            dtype=settings.cache_dtype,
            teachers=tuple(map(self._keyed, teachers.entries, teachers.plans)),
        )

    def _keyed(self, entry: TeacherName, plan: TeacherPlan) -> str:
        """A teacher's files, and what it is shown in which words."""
        if not entry.share:
            return plan.fingerprint()
        shown = hashlib.sha256(self.student.prompts.hint("2+2?", ("2+2=4",)).encode())
        return f"{plan.fingerprint()}@{entry.share:g}:{shown.hexdigest()[:8]}"


def split_monitor(source: Records, config: Config) -> tuple[list[Record], list[Record]]:
    """Examples to learn from, and records on which the student is measured while it learns."""
    curriculum = config.curriculum
    count = len(source) - curriculum.num_monitor
    if curriculum.examples:
        count = min(count, curriculum.examples)
    if count < curriculum.buckets:
        raise InputError(
            f"curriculum.buckets = {curriculum.buckets}: more buckets than the {max(count, 0)} "
            f"examples that are left beside curriculum.num_monitor = {curriculum.num_monitor}. Set "
            "fewer buckets or give more records."
        )
    records = [source[i] for i in range(count + curriculum.num_monitor)]
    return records[:count], records[count:]
