"""Whether teachers are in the order weak to strong, as measured."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Record
from cotjax.student.evaluate import evaluate, with_one_sample
from cotjax.teachers.pool import TeacherPool


def check_ranking(
    config: Config, mesh: Mesh, teachers: TeacherPool, problems: Sequence[Record]
) -> tuple[str, ...]:
    """Measures every teacher, and warns if they are not in the order weak to strong."""
    if len(teachers.names) < 2 or not problems or config.teachers.cache:
        return ()
    accuracy = []
    for index in range(len(teachers.names)):
        teacher = teachers[index]
        student = dataclasses.replace(teacher.student, base={})
        numbers, _ = evaluate(student, with_one_sample(config), mesh, teacher.params, problems)
        accuracy.append(numbers["accuracy"])
        teachers.keep_only(())
    return ranking_notes(teachers.names, accuracy, len(problems))


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
