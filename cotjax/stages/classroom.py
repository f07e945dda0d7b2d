"""The student of a curriculum, its examples as rows, and the course that orders them."""

import hashlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.data.bucketed import Example
from cotjax.data.encode import encode_supervised
from cotjax.data.teacher_store import Manifest
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.models.vocabulary import tokenizer_hash
from cotjax.stages import common
from cotjax.stages.completions import evaluate
from cotjax.stages.course import Course
from cotjax.stages.difficulty import Difficulty
from cotjax.stages.skill import one_sample
from cotjax.stages.teachers import Teachers


class Classroom:
    """What training and writing a store have in common.

    Attributes:
      student: who learns.
      records: the examples.
      monitor: further records, by which the student is watched while it learns.
      held_out: those of the evaluation.
      course: their order.

    Args:
      config: of the run.
      mesh: of the run.

    Raises:
      InputError: as `common.open_student` and `common.open_records`, or fewer examples than stages.
    """

    def __init__(self, config: Config, mesh: Mesh) -> None:
        self.config, self.mesh = config, mesh
        self.student = common.open_student(config, mesh)
        source, self.held_out = common.open_records(config, self.student)
        self.records, self.monitor = _share_out(source, config)
        difficulty = Difficulty(config, mesh, self.student, self.records, self.encode)
        self.course = Course(config, len(self.records), self.encode, difficulty)

    def encode(self, index: int) -> Example:
        """An example as arrays."""
        return self.encode_record(self.records[index])

    def encode_record(self, record: Record) -> Example:
        """A record as arrays; its target is its own solution."""
        return encode_supervised(
            self.student.tokenizer,
            self.student.prompts.solve(record.question),
            common.solution(record),
            max_length=self.config.sft.sequence_length,
            name=record.id,
        )

    def pass_rate(self, params: Any) -> float:
        """The student's share of right answers to the records that it is watched by."""
        config = one_sample(self.config)
        numbers, _ = evaluate(self.student, config, self.mesh, params, self.monitor)
        return numbers["accuracy"]

    def manifest(self, teachers: Teachers) -> Manifest:
        """What a store for this run is made of; the course has sorted its examples."""
        distill = self.config.distill
        data = hashlib.sha256(self.course.bucket.astype("<i8").tobytes())
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
            top_k=distill.top_k,
            temperature=distill.temperature,
            dtype=distill.store_dtype,
            teachers=tuple(plan.fingerprint() for plan in teachers.plans),
        )


def _share_out(source: Any, config: Config) -> tuple[list[Record], list[Record]]:
    """Examples to learn from, and records to watch the student by."""
    curriculum = config.curriculum
    count = len(source) - curriculum.monitor
    if curriculum.examples:
        count = min(count, curriculum.examples)
    if count < curriculum.buckets:
        raise InputError(
            f"curriculum.buckets = {curriculum.buckets}: more stages than the {max(count, 0)} "
            f"examples that are left beside curriculum.monitor = {curriculum.monitor}. Set fewer "
            "buckets or give more records."
        )
    records = [source[i] for i in range(count + curriculum.monitor)]
    return records[:count], records[count:]


def counted(example: Example) -> np.ndarray:
    """The positions of an example that a loss counts."""
    return np.flatnonzero(example["weight"] > 0)
