"""Whether teachers are in the order weak to strong, as measured."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record
from cotjax.student.evaluate import evaluate, evaluation_programs, without_samples
from cotjax.teachers.pool import TeacherPool


def check_ranking(
    config: Config, mesh: Mesh, teachers: TeacherPool, problems: Sequence[Record]
) -> tuple[str, ...]:
    """Measures every teacher, and warns if they are not in the order weak to strong."""
    if not _is_checked(config, teachers, problems):
        return ()
    accuracy = []
    for index in range(len(teachers.names)):
        teacher, settings = teachers[index], without_samples(config)
        numbers, _ = evaluate(teacher.student, settings, mesh, teacher.params, problems)
        accuracy.append(numbers["accuracy"])
        teachers.keep_only(())
    return ranking_notes(teachers.names, accuracy, len(problems))


def ranking_programs(
    config: Config, mesh: Mesh, teachers: TeacherPool, problems: Sequence[Record]
) -> Iterator[Program]:
    """What `check_ranking` compiles; arguments as for it."""
    if not _is_checked(config, teachers, problems):
        return
    for index, plan in enumerate(teachers.plans):
        settings, name = without_samples(config), f"evaluation of teacher {plan.name}"
        yield from teachers.loading_programs(index, always=True)
        yield from evaluation_programs(plan.student, settings, mesh, len(problems), name=name)


def _is_checked(config: Config, teachers: TeacherPool, problems: Sequence[Record]) -> bool:
    return len(teachers.names) > 1 and bool(problems) and not config.teachers.cache


def ranking_notes(
    names: Sequence[str], accuracy: Sequence[float], problems: int
) -> tuple[str, ...]:
    """A warning if the teachers are not ordered from weak to strong, with what was measured.

    Example:
      >>> (note,) = ranking_notes(["a", "b"], [0.9, 0.5], 32)
      >>> note[note.index("on 32") :]
      'on 32 problems a solves 90.0%, b solves 50.0%.'
    """
    if all(np.diff(accuracy) >= 0):
        return ()
    measured = ", ".join(
        f"{name} solves {share:.1%}" for name, share in zip(names, accuracy, strict=True)
    )
    return (
        f"teachers.paths are not in the order weak to strong: on {problems} problems {measured}.",
    )
