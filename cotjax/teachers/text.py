"""Teachers by their texts for questions, written now or read from a file.

A text crosses from one tokenizer to another, so teacher and student may have different ones.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.cot import is_correct
from cotjax.data.sources import read_records
from cotjax.errors import InputError
from cotjax.interfaces import End, Program, Record
from cotjax.rollout.plan import Sampling
from cotjax.student.generate import complete, completing_programs, rollout_sampling
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import record_reader, solution
from cotjax.student.verify import open_verifier
from cotjax.teachers.pool import TeacherPool

FILE = ".jsonl"  # of python -m cotjax.rationales
_WRITTEN = (
    'Write it as python -m cotjax.rationales does: a "question", and an "answer" with "####".'
)


class TextTeachers:
    """All teachers of a run, weak to strong; models are loaded when they write.

    Args:
      config: of the run.
      mesh: of the run.
      records: the examples; every file must solve some of them.
      student: the model that is trained, which `self@0` needs.

    Raises:
      InputError: no teachers, a model or file that is not there, or a file about other questions.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        records: Sequence[Record],
        student: LoadedPolicy | None = None,
    ) -> None:
        self.names = config.teachers.paths
        self._config, self._mesh = config, mesh
        self._files = {k: _read(config, name, records) for k, name in enumerate(self.names)
                       if name.endswith(FILE)}  # fmt: skip
        rest = [k for k in range(len(self.names)) if k not in self._files]
        self._place = {k: place for place, k in enumerate(rest)}
        self._broken: collections.Counter[str] = collections.Counter()
        self.models: TeacherPool | None = None
        if rest or not self.names:
            named = tuple(self.names[k] for k in rest)
            teachers = dataclasses.replace(config.teachers, paths=named)
            self.models = TeacherPool(
                *(dataclasses.replace(config, teachers=teachers), mesh, None),
                slots=1,
                compare=False,
                student=student,
            )

    def keep_only(self, wanted: Iterable[int]) -> None:
        """Drops the other models' parameters, and begins to load these."""
        if self.models is not None:
            places = [self._place[k] for k in wanted if k in self._place]
            self.models.keep_only(places)
            self.models.prefetch(places)

    def write(
        self, teacher: int, records: Sequence[Record], *, key: Any, first: int = 0
    ) -> list[str | None]:
        """A teacher's text for each record; None where it has none that may be learned from.

        Args:
          teacher: its index.
          records: the problems.
          key: of the random numbers.
          first: number of the first record; with the key it decides the random numbers.
        """
        if teacher in self._files:
            texts = self._files[teacher]
            return [texts.get(record.question) for record in records]
        return [
            text if text is not None and self._usable(text, record) else None
            for text, record in zip(
                self._sampled(teacher, records, key, first), records, strict=True
            )
        ]

    def take_broken(self) -> dict[str, int]:
        """How many texts of each model ended in a NaN of its logits since this was last asked."""
        found = dict(self._broken)
        self._broken.clear()
        return found

    def is_model(self, teacher: int) -> bool:
        """Whether a teacher writes; a file holds what was written."""
        return teacher not in self._files

    def lacks(self, teacher: int, records: Sequence[Record]) -> int:
        """For how many records a file has no text; a model may write one for each, so 0."""
        if self.is_model(teacher):
            return 0
        return sum(record.question not in self._files[teacher] for record in records)

    def notes(self, records: Sequence[Record]) -> Iterator[str]:
        """A sentence on every teacher that lacks some of the records."""
        right = "right " if self._config.distill.filter_texts else ""
        for teacher, name in enumerate(self.names):
            if count := self.lacks(teacher, records):
                yield (
                    f"{name} has no {right}text for {count} of the {len(records)} questions of "
                    "this run; its places in a batch go to others."
                )

    def _sampling(self, student: LoadedPolicy) -> Sampling:
        return rollout_sampling(self._config.rollout, student, in_groups=False)

    def programs(self, used: Iterable[int]) -> Iterator[Program]:
        """What `write` compiles, and loading before it.

        Args:
          used: teachers that every run asks.
        """
        sure, config = set(used), self._config
        for teacher, place in self._place.items():
            assert self.models is not None, "a teacher that is no file is a model"
            plan, always = self.models.plans[place], teacher in sure
            yield from self.models.loading_programs(place, always=always)
            yield from completing_programs(
                *(f"texts of teacher {plan.name}", plan.student, config, self._mesh),
                settings=self._sampling(plan.student),
                completions=config.rollout.prompts,
                records=config.rollout.prompts,
                always=always,
            )

    def _usable(self, text: str, record: Record) -> bool:
        right = functools.partial(is_correct, verifier=open_verifier(self._config))
        return not self._config.distill.filter_texts or right(text, record.answer)

    def _sampled(
        self, teacher: int, records: Sequence[Record], key: Any, first: int
    ) -> list[str | None]:
        """What a model writes; None where it did not come to an end."""
        assert self.models is not None, "a teacher that is no file is a model"
        model = self.models[self._place[teacher]]
        groups = complete(
            model.student,
            self._config,
            self._mesh,
            model.params,
            records,
            settings=self._sampling(model.student),
            completions=self._config.rollout.prompts,
            of=self._config.rollout.prompts,  # whatever a step asks for, one program
            key=key,
            first=first,
        )
        written = [one for (one,) in groups]
        if broken := sum(one.end == End.NONFINITE for one in written):
            self._broken[self.names[teacher]] += broken
        return [one.text if one.ended else None for one in written]


def _read(config: Config, path: str, records: Sequence[Record]) -> dict[str, str]:
    """Texts of a file by question."""
    verifier = open_verifier(config)
    reader = dataclasses.replace(record_reader(verifier), layout="gsm8k", instead=_WRITTEN)
    rows = read_records(
        path,
        reader,
        source="jsonl",
        split="",
        size=0,
        seed=0,
        key="teachers.paths",
        on_bad_record=config.data.on_bad_record,
    )
    texts = {row.question: solution(row) for row in rows}
    gold = {record.question: record.answer for record in records}
    if config.distill.filter_texts:
        right = functools.partial(is_correct, verifier=verifier)
        texts = {q: t for q, t in texts.items() if q not in gold or right(t, gold[q])}
    if not texts.keys() & gold.keys():
        raise InputError(
            f'teachers.paths: "{path}" solves none of the {len(records)} questions of this run. '
            "Write it with python -m cotjax.rationales and the same [data] and seed, with "
            "rationales.questions >= curriculum.examples."
        )
    return texts
