"""Completions of problems: sampled, decoded, rewarded, summed up."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, RolloutConfig
from cotjax.cot import completion_reward
from cotjax.data.opening import HELD_OUT_SEED
from cotjax.interfaces import End, Record, Rollout
from cotjax.models.lora import join_adapter
from cotjax.parallel import processes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices
from cotjax.rollout.engine import generate
from cotjax.rollout.plan import Sampling
from cotjax.stages.common import Student, prompt_batch, solve_prompt
from cotjax.training.evaluation import Completion, summarize

# (config, record, completion, its tokens without the end) to a reward and its named parts.
RewardFn = Callable[[Config, Record, str, int], tuple[float, dict[str, float]]]


def solve_reward(
    config: Config, record: Record, text: str, tokens: int
) -> tuple[float, dict[str, float]]:
    """The reward of a completion, and of every evaluation."""
    reward = config.reward
    return completion_reward(
        text,
        gold=record.answer,
        teacher_steps=record.difficulty,
        words_per_step=reward.length_per_step,
        monotone=reward.monotone,
        unit=reward.unit,
        length=tokens if reward.unit == "tokens" else None,
    )


def judge(
    student: Student,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: RewardFn = solve_reward,
) -> list[list[Completion]]:
    """Decodes and rewards a rollout (arrays on the host); B lists of G."""
    lengths = rollout.mask.sum(axis=-1)
    shown = lengths - (np.asarray(rollout.end) == End.EOS)  # without the end token
    flat = [
        row[:size]
        for rows, sizes in zip(rollout.tokens, shown, strict=True)
        for row, size in zip(rows, sizes, strict=True)
    ]
    texts = iter(student.tokenizer.batch_decode(flat, skip_special_tokens=False))
    judged = []
    for record, *rows in zip(records, lengths, shown, rollout.end, strict=True):
        group = []
        for size, own, end in zip(*rows, strict=True):
            text = next(texts)
            earned, parts = reward(config, record, text, int(own))
            group.append(Completion(text, int(size), End(end), earned, parts))
        judged.append(group)
    return judged


def judge_own(
    mesh: Mesh,
    student: Student,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: RewardFn = solve_reward,
) -> list[list[Completion]]:
    """`judge`, for which each process takes the rows that it owns and tells the others."""
    if jax.process_count() == 1:
        return judge(student, config, records, rollout, reward)
    owner = processes.owners(mesh, len(records))
    own = np.flatnonzero(owner == jax.process_index()).tolist()
    judged = judge(
        student,
        config,
        [records[row] for row in own],
        jax.tree.map(lambda leaf: leaf[own], rollout),
        reward,
    )
    told = processes.gather([[dataclasses.asdict(one) for one in group] for group in judged])
    groups: list[list[Completion]] = [[] for _ in records]
    for process, theirs in enumerate(told):
        rows = np.flatnonzero(owner == process).tolist()
        for row, group in zip(rows, theirs, strict=True):
            groups[row] = [Completion(**one | {"end": End(one["end"])}) for one in group]
    return groups


def completion_row(record: Record, completion: Completion) -> dict[str, Any]:
    """A line of completions.jsonl."""
    return {
        "id": record.id,
        "question": record.question,
        "gold": record.answer,
        "completion": completion.text,
        "reward": completion.reward,
        "parts": completion.parts,
        "tokens": completion.tokens,
        "end": End(completion.end).name.lower(),
    }


def evaluate(
    student: Student, config: Config, mesh: Mesh, params: Any, records: Sequence[Record]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Greedy and sampled accuracy on held-out records.

    Returns:
      the numbers of `summarize`, and one completions.jsonl row per greedy completion.
    """
    settings, size = evaluation_sampling(student, config), config.eval.batch_size
    judged = list(
        complete(student, config, mesh, params, records, settings=settings, completions=size)
    )
    greedy, sampled = [one[0] for one in judged], [one[1:] for one in judged]
    rows = [completion_row(record, one) for record, one in zip(records, greedy, strict=True)]
    return summarize(greedy, sampled), rows


def evaluation_sampling(student: Student, config: Config) -> Sampling:
    """How an evaluation samples: one greedy completion and `eval.samples` others."""
    return Sampling(
        group_size=1 + config.eval.samples,
        max_new_tokens=config.eval.max_new_tokens,
        eos_id=student.eos_id,
        pad_id=student.pad_id,
        temperature=config.eval.temperature,
        greedy_first=True,
    )


def rollout_sampling(
    config: RolloutConfig, *, eos_id: int, pad_id: int, in_groups: bool = True
) -> Sampling:
    """How a run samples while it trains.

    Args:
      config: of the rollouts.
      eos_id: ends a completion.
      pad_id: what stands after it.
      in_groups: groups of completions, by the engine's rows and share; or one for each prompt.
    """
    return Sampling(
        group_size=config.group_size if in_groups else 1,
        max_new_tokens=config.max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        rows=config.rows if in_groups else 0,
        share=config.share if in_groups else 0,
    )


def rollout_params(student: Student, config: Config, mesh: Mesh, params: Any) -> Any:
    """The parameters with which a student samples, its adapter joined; see `for_rollout`."""
    whole = join_adapter(params, student.base)
    return parallel.for_rollout(mesh, whole, config.model.compute_dtype)


def prompts_at_once(completions: int, group_size: int, mesh: Mesh) -> int:
    """Prompts that `complete` gives the sampler in one call."""
    size, parts = max(completions // group_size, 1), batch_devices(mesh)
    return -(-size // parts) * parts


def prompt_width(config: Config) -> int:
    """Tokens that the prompts of an evaluation are padded to."""
    return config.eval.max_prompt_tokens or config.rollout.max_prompt_tokens


def complete(
    student: Student,
    config: Config,
    mesh: Mesh,
    params: Any,
    records: Sequence[Record],
    *,
    settings: Sampling,
    completions: int,
    key: Array | None = None,
    first: int = 0,
) -> Iterator[list[Completion]]:
    """Judged completions of records; `settings.group_size` for each, batch by batch.

    Args:
      student: who writes.
      config: of the run.
      mesh: of the run.
      params: what is trained of the student.
      records: the problems, each asked by its question alone.
      settings: how to sample.
      completions: how many are decoded at once; a multiple of the group, or the next below it.
      key: of the random numbers; None: that of all evaluations of all runs, so that differences
        are the model's.
      first: number of the first record; with the key it decides the random numbers.
    """
    width, size = prompt_width(config), prompts_at_once(completions, settings.group_size, mesh)
    key = jax.random.key(HELD_OUT_SEED) if key is None else key
    params = rollout_params(student, config, mesh, params)
    for start in range(0, len(records), size):
        chunk = list(records[start : start + size])
        full = chunk + [chunk[-1]] * (size - len(chunk))  # one shape, one compilation
        texts = [solve_prompt(student, record) for record in full]
        ids = range(first + start, first + start + size)
        batch = parallel.shard(mesh, prompt_batch(student, ids, full, texts, width))
        rollout = generate(
            student.policy, params, batch, key, settings=settings, stop_table=student.stop_table
        )
        judged = judge_own(mesh, student, config, full, processes.fetch(rollout))
        yield from judged[: len(chunk)]
