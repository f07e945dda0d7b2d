"""The evaluation of every stage: greedy and sampled answers to held-out questions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record
from cotjax.parallel import processes
from cotjax.progress import Progress
from cotjax.student.generate import (
    complete,
    completing_programs,
    evaluation_sampling,
    prompts_at_once,
)
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import Reward, completion_row, solve_reward
from cotjax.student.verify import open_verifier
from cotjax.training.evaluation import JudgedCompletion, summarize


def evaluate(
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    params: Any,
    records: Sequence[Record],
    reward: Reward = solve_reward,
    *,
    name: str = "evaluation",
    keep_partial: bool = False,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Greedy and sampled accuracy on held-out records, as `eval.verifier` reads answers.

    Says how far it is.

    Args:
      student: who is asked.
      config: of the run.
      mesh: of the run.
      params: what is trained of the student.
      records: the problems.
      reward: what a completion earns, for the rows.
      name: of what is measured, for whoever waits.
      keep_partial: whether Ctrl-C ends it with the numbers of the problems that are done.

    Returns:
      the numbers of `summarize`, and one completions.jsonl row per greedy completion.
    """
    judged: list[list[JudgedCompletion]] = []
    settings, most = evaluation_sampling(student, config), config.eval.batch_size
    at_once = prompts_at_once(most, settings.group_size, student.rollout_mesh, len(records))
    groups = complete(
        *(student, config, mesh, params, records),
        settings=settings,
        completions=most,
        reward=reward,
        verifier="eval.verifier",
    )
    quiet = not processes.is_first()
    with Progress(name, len(records), "problems", quiet=quiet, at_once=at_once) as progress:
        try:
            for group in groups:
                judged.append(group)
                progress.advance()
        except KeyboardInterrupt:
            if not (keep_partial and judged):
                raise
    greedy, sampled = [one[0] for one in judged], [one[1:] for one in judged]
    rows = [completion_row(record, one) for record, one in zip(records, greedy, strict=False)]
    equal = open_verifier(config, "eval.verifier").equal
    return summarize(greedy, sampled if config.eval.samples else (), equal), rows


def evaluation_programs(
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    problems: int,
    *,
    name: str = "evaluation",
    always: bool = True,
) -> Iterator[Program]:
    """What `evaluate` compiles for so many problems; the rest as for `sampling_programs`."""
    return completing_programs(
        *(name, student, config, mesh),
        settings=evaluation_sampling(student, config),
        completions=config.eval.batch_size,
        records=problems,
        always=always,
    )


def without_samples(config: Config) -> Config:
    """The config whose evaluation is greedy alone."""
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, samples=0))
