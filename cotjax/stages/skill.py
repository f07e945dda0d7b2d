"""Whether teachers are in the order weak to strong, as measured."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Record
from cotjax.stages.completions import evaluate
from cotjax.stages.teachers import Teachers


def check_skill(
    config: Config, mesh: Mesh, teachers: Teachers, problems: Sequence[Record]
) -> tuple[str, ...]:
    """Measures every teacher, and warns if they are not in the order weak to strong."""
    if len(teachers.names) < 2 or not problems or config.distill.store:
        return ()
    accuracy = []
    for index in range(len(teachers.names)):
        teacher = teachers[index]
        student = dataclasses.replace(teacher.student, base={})
        numbers, _ = evaluate(student, one_sample(config), mesh, teacher.params, problems)
        accuracy.append(numbers["accuracy"])
        teachers.keep_only(())
    return skill_notes(teachers.names, accuracy, len(problems))


def one_sample(config: Config) -> Config:
    """The config with as little sampling beside greedy decoding as there is."""
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, samples=1))


def skill_notes(names: Sequence[str], accuracy: Sequence[float], problems: int) -> tuple[str, ...]:
    """A warning if the teachers are not ordered from weak to strong, with what was measured.

    Example:
      >>> (note,) = skill_notes(["a", "b"], [0.9, 0.5], 32)
      >>> note[note.index("on 32") :]
      'on 32 problems a solves 90.0%, b solves 50.0%.'
    """
    if all(np.diff(accuracy) >= 0):
        return ()
    measured = ", ".join(
        f"{name} solves {share:.1%}" for name, share in zip(names, accuracy, strict=True)
    )
    return (
        f"distill.teachers are not in the order weak to strong: on {problems} problems {measured}.",
    )
