"""Whether teachers are in the order weak to strong, as measured.

Teachers that see the question alone are asked to solve problems. As soon as one is shown part of
the reference rationale (`PATH@C`), all are measured by how likely that rationale is to them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record
from cotjax.student.evaluate import evaluate, evaluation_programs, without_samples
from cotjax.teachers.pool import TeacherPool

# A teacher's number to its mean log-probability of the reference rationales, nats per token.
Likelihood = Callable[[int], float]


def check_ranking(
    config: Config,
    mesh: Mesh,
    teachers: TeacherPool,
    problems: Sequence[Record],
    likelihood: Likelihood | None = None,
) -> tuple[str, ...]:
    """Measures every teacher, and warns if they are not in the order weak to strong.

    Args:
      config: of the run.
      mesh: of the run.
      teachers: of the run.
      problems: on which they are measured.
      likelihood: of the problems' rationales; needed where a teacher is shown part of them.
    """
    if not _is_checked(config, teachers, problems):
        return ()
    if is_ladder(teachers):
        assert likelihood is not None, "whoever shows rationales can score them"
        logp = []
        for index in range(len(teachers.names)):
            teachers.keep_only([index])  # the next entry may be the same model
            logp.append(likelihood(index))
        teachers.keep_only(())
        return likelihood_notes(teachers.names, logp, len(problems))
    accuracy = []
    for index in range(len(teachers.names)):
        teacher, settings = teachers[index], without_samples(config)
        numbers, _ = evaluate(teacher.student, settings, mesh, teacher.params, problems)
        accuracy.append(numbers["accuracy"])
        teachers.keep_only(())
    return ranking_notes(teachers.names, accuracy, len(problems))


def is_ladder(teachers: TeacherPool) -> bool:
    """Whether how much a teacher is shown is part of its strength."""
    return any(entry.is_shown for entry in teachers.entries)


def ranking_programs(
    config: Config, mesh: Mesh, teachers: TeacherPool, problems: Sequence[Record]
) -> Iterator[Program]:
    """What `check_ranking` compiles, but for a likelihood; arguments as for it."""
    if not _is_checked(config, teachers, problems):
        return
    for index, plan in enumerate(teachers.plans):
        settings, name = without_samples(config), f"evaluation of teacher {plan.name}"
        yield from teachers.loading_programs(index, always=True)
        if not is_ladder(teachers):
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


def likelihood_notes(names: Sequence[str], logp: Sequence[float], problems: int) -> tuple[str, ...]:
    """How likely the reference rationales are to each teacher, nats, and a warning if that falls.

    Example:
      >>> likelihood_notes(["a@0", "a@1"], [-0.5, -0.25], 8)
      ('log-probability of a token of 8 reference rationales: a@0 -0.500, a@1 -0.250.',)
      >>> len(likelihood_notes(["a@0", "a@1"], [-0.5, -0.75], 8))
      2
    """
    measured = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, logp, strict=True))
    told = (f"log-probability of a token of {problems} reference rationales: {measured}.",)
    if all(np.diff(logp) >= 0):
        return told
    return (
        *told,
        "teachers.paths are not in the order weak to strong: the log-probability of the reference "
        "rationales has to rise from each teacher to the next. Reorder them, or take a model that "
        "makes use of what it is shown.",
    )
