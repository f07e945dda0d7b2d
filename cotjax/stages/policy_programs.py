"""What a policy stage compiles beside every stage's programs, and the shapes of its batches."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.data.pipeline import prompt_widths
from cotjax.interfaces import Program, ScoredGroups
from cotjax.parallel import shapes
from cotjax.rollout.plan import Sampling
from cotjax.student.generate import sampling_programs
from cotjax.student.groups import informative_program, micro_shapes
from cotjax.student.load import LoadedPolicy


def group_shapes(config: Config, mesh: Mesh, prompts: int) -> list[ScoredGroups]:
    """The shapes of micro-batches of a number of prompts; nearly every step has one of the last."""
    size, longest = config.rollout.group_size, config.rollout.max_new_tokens
    return [
        micro
        for width in widths_of(config)
        for micro in micro_shapes(mesh, prompts, size, width=width, longest=longest)
    ]


def scored_shapes(micros: Sequence[ScoredGroups], *, reference: bool) -> list[ScoredGroups]:
    """The same with the log-probabilities of the policy that sampled, and the reference's."""
    return [
        dataclasses.replace(
            micro, logp_old=micro.logp_sampler, logp_ref=micro.logp_sampler if reference else None
        )
        for micro in micros
    ]


def rollout_programs(
    student: LoadedPolicy, config: Config, mesh: Mesh, settings: Sampling
) -> Iterator[Program]:
    """Sampling a batch of prompts, at every width that they may have."""
    widths = widths_of(config)
    for width in widths:
        yield from sampling_programs(
            *("rollout", student, config, mesh),
            settings=settings,
            prompts=config.rollout.prompts,
            width=width,
            always=len(widths) == 1,
        )


def advantage_programs(config: Config, advantage: Any) -> Iterator[Program]:
    """What rewards [B, G] go through.

    Args:
      config: of the run.
      advantage: of `jax.jit`: rewards and which of them the baseline counts, or None for all.
    """
    prompts, group = config.rollout.prompts, config.rollout.group_size
    for times in range(1, config.policy.refill + 2):
        yield informative_program(prompts * times, group, always=times == 1)
    reward = shapes.on_host(prompts, group)
    counts = shapes.on_host(prompts, group, dtype=np.bool_)
    masked = config.policy.overlong == "mask"
    yield Program("advantage", advantage, (reward, None), always=not masked)
    yield Program("advantage", advantage, (reward, counts), always=masked)


def score_programs(
    student: LoadedPolicy, score: Any, micros: Sequence[ScoredGroups], *, reference: bool
) -> Iterator[Program]:
    """Scoring micro-batches before several updates.

    Args:
      student: what learns.
      score: of `jax.jit`: a policy, its parameters and a micro-batch to log-probabilities.
      micros: the shapes of micro-batches.
      reference: whether the reference scores them too.
    """
    policy = student.policy
    for micro in micros:
        likely = micro is micros[-1]
        args = policy, student.all_shapes, micro
        yield Program("log-probabilities", score, args, always=likely)
        if reference:
            args = policy.without_adapter, student.reference_shapes, micro
            yield Program("the reference's log-probabilities", score, args, always=likely)


def widths_of(config: Config) -> tuple[int, ...]:
    """The lengths that prompts are padded to, from the least on, in tokens."""
    return prompt_widths(config.rollout.max_prompt_tokens, config.data.prompt_widths)
