"""Completions of records: prompts encoded, sampled by the rollout engine, judged."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, RolloutConfig
from cotjax.data.splits import HELD_OUT_SEED
from cotjax.interfaces import Program, Record
from cotjax.parallel import processes, shapes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import asked_limit, prompt_batch
from cotjax.student.rewards import Reward, judge_own, solve_reward
from cotjax.student.verify import VerifierKey
from cotjax.training.evaluation import JudgedCompletion


def evaluation_sampling(student: LoadedPolicy, config: Config) -> Sampling:
    """How an evaluation samples: one greedy completion and `eval.samples` others."""
    samples = config.eval.samples
    return Sampling(
        group_size=1 + samples,
        max_new_tokens=config.eval.max_new_tokens,
        **student.ends,
        temperature=config.eval.temperature if samples else 0.0,
        greedy_first=samples > 0,
    )


def rollout_sampling(
    config: RolloutConfig, student: LoadedPolicy, *, in_groups: bool = True
) -> Sampling:
    """How a run samples while it trains.

    Args:
      config: of the rollouts.
      student: who writes.
      in_groups: groups of completions, in the engine's slots; or one for each prompt.
    """
    return Sampling(
        group_size=config.group_size if in_groups else 1,
        max_new_tokens=config.max_new_tokens,
        **student.ends,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        rows=config.max_concurrent if in_groups else 0,
        share=config.completions_per_slot if in_groups else 0,
        draft_tokens=config.draft_tokens,
        weights_dtype=config.weights_dtype,
    )


def rollout_params(student: LoadedPolicy, config: Config, mesh: Mesh, params: Any) -> Any:
    """The parameters with which a student samples, its adapter joined; see `for_rollout`."""
    all_params, dtype = student.all_params(params), config.model.compute_dtype
    return parallel.for_rollout(mesh, all_params, dtype, rollout=student.rollout_mesh)


def sampling_programs(
    name: str,
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    *,
    settings: Sampling,
    prompts: int,
    width: int,
    always: bool = True,
) -> Iterator[Program]:
    """What `generate` compiles for a batch of prompts, and what lays out parameters before.

    Args:
      name: of the use, for the reader.
      student: who writes.
      config: of the run.
      mesh: of the run.
      settings: how to sample.
      prompts: of a batch.
      width: tokens of a prompt.
      always: whether every run samples so.
    """
    params, rollout = student.all_shapes, student.rollout_mesh
    layout = parallel.rollout_layout(mesh, params, config.model.compute_dtype, rollout=rollout)
    if layout.program is not None:
        args = (layout.changing(params),)
        yield Program(f"{name}: parameters", layout.program, args, always=always)
    args = (
        student.sampler,
        layout.shapes,
        shapes.prompt_batch(rollout, prompts, width),
        shapes.key(),
    )
    more = {"settings": settings, "stop_table": student.stop_table}
    yield Program(name, generate, args, more, always)


def completing_programs(
    name: str,
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    *,
    settings: Sampling,
    completions: int,
    records: int,
    always: bool = True,
) -> Iterator[Program]:
    """What `complete` compiles for a number of records; arguments as for both."""
    prompts = prompts_at_once(completions, settings.group_size, student.rollout_mesh, records)
    return sampling_programs(
        name,
        student,
        config,
        mesh,
        settings=settings,
        prompts=prompts,
        width=prompt_width(config),
        always=always,
    )


def prompts_at_once(completions: int, group_size: int, mesh: Mesh, records: int) -> int:
    """Prompts that `complete` gives the sampler in one call.

    As few calls as the limit allows, all of one size, so that one program does them and next to
    nothing is decoded in vain: 100 records of which 64 fit are two calls of 50.

    Args:
      completions: the most that are decoded at once.
      group_size: completions of a prompt.
      mesh: whose devices share a call's prompts.
      records: how many there are in all.
    """
    parts = batch_devices(mesh)
    most = _up_to(max(completions // group_size, 1), parts)
    records = max(records, 1)  # a stage that holds nothing out can be opened too
    calls = -(-records // most)
    return min(_up_to(-(-records // calls), parts), most)


def _up_to(count: int, parts: int) -> int:
    """The next number of prompts that divides over some devices."""
    return -(-count // parts) * parts


def prompt_width(config: Config) -> int:
    """Tokens that the prompts of an evaluation are padded to."""
    return asked_limit(config)[1]


def complete(
    student: LoadedPolicy,
    config: Config,
    mesh: Mesh,
    params: Any,
    records: Sequence[Record],
    *,
    settings: Sampling,
    completions: int,
    of: int = 0,
    key: Array | None = None,
    first: int = 0,
    reward: Reward = solve_reward,
    verifier: VerifierKey = "reward.verifier",
) -> Iterator[list[JudgedCompletion]]:
    """Judged completions of records; `settings.group_size` for each, batch by batch.

    Args:
      student: the model that samples.
      config: of the run.
      mesh: of the run.
      params: what is trained of the student.
      records: the problems; each prompt is the question alone.
      settings: how to sample.
      completions: the most that are decoded at once, see `prompts_at_once`.
      of: how many records there are where these are only a part; 0 = these are all.
      key: of the random numbers; None: that of all evaluations of all runs, so that differences
        are the model's.
      first: number of the first record; with the key it decides the random numbers.
      reward: what a completion earns.
      verifier: the key that names who reads and compares the answers.
    """
    if not records:
        return
    width_key, width = asked_limit(config)
    rollout_mesh, count = student.rollout_mesh, of or len(records)
    size = prompts_at_once(completions, settings.group_size, rollout_mesh, count)
    key = jax.random.key(HELD_OUT_SEED) if key is None else key
    params = rollout_params(student, config, mesh, params)
    for start in range(0, len(records), size):
        chunk = list(records[start : start + size])
        full = chunk + [chunk[-1]] * (size - len(chunk))  # one shape, one compilation
        texts = [student.prompts.solve(record.question) for record in full]
        ids = range(first + start, first + start + size)
        batch = prompt_batch(student.tokenizer, ids, full, texts, width, key=width_key)
        batch = parallel.shard(rollout_mesh, batch)
        rollout = generate(
            student.sampler, params, batch, key, settings=settings, stop_table=student.stop_table
        )
        rollout = processes.fetch(rollout)
        judged = judge_own(rollout_mesh, student, config, full, rollout, reward, verifier)
        yield from judged[: len(chunk)]
