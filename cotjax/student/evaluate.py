"""The evaluation of every stage: greedy and sampled answers to held-out questions."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record
from cotjax.student.generate import complete, completing_programs, evaluation_sampling
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import RewardFn, completion_row, solve_reward
from cotjax.training.evaluation import summarize


def evaluate(
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    params: Any,
    records: Sequence[Record],
    reward: RewardFn = solve_reward,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Greedy and sampled accuracy on held-out records, as `eval.verifier` reads answers.

    Args:
      student: who is asked.
      config: of the run.
      mesh: of the run.
      params: what is trained of the student.
      records: the problems.
      reward: what a completion earns, for the rows.

    Returns:
      the numbers of `summarize`, and one completions.jsonl row per greedy completion.
    """
    settings, size = evaluation_sampling(student, config), config.eval.batch_size
    judged = list(
        complete(
            student,
            config,
            mesh,
            params,
            records,
            settings=settings,
            completions=size,
            reward=reward,
            verifier="eval.verifier",
        )
    )
    greedy, sampled = [one[0] for one in judged], [one[1:] for one in judged]
    rows = [completion_row(record, one) for record, one in zip(records, greedy, strict=True)]
    return summarize(greedy, sampled), rows


def evaluation_programs(
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    *,
    name: str = "evaluation",
    always: bool = True,
) -> Iterator[Program]:
    """What `evaluate` compiles; `name` and `always` as for `sampling_programs`."""
    settings, size = evaluation_sampling(student, config), config.eval.batch_size
    return completing_programs(
        name, student, config, mesh, settings=settings, completions=size, always=always
    )


def with_one_sample(config: Config) -> Config:
    """The config with as little sampling beside greedy decoding as there is."""
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, samples=1))
