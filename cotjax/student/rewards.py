"""The rewards of completions: decoded, judged, and gathered over the processes of the run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.advantage import overlong_penalty
from cotjax.cot import completion_reward
from cotjax.interfaces import End, Record, Rollout
from cotjax.parallel import processes
from cotjax.student.load import LoadedPolicy
from cotjax.training.evaluation import Completion

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
    student: LoadedPolicy,
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
    student: LoadedPolicy,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: RewardFn = solve_reward,
) -> list[list[Completion]]:
    """`judge` of the rows that this process owns; the results are gathered over all processes."""
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


def add_overlong(config: Config, judged: list[list[Completion]]) -> list[list[Completion]]:
    """Judged groups less DAPO's soft penalty near the token limit, if the config has a buffer."""
    buffer, limit = config.policy.overlong_buffer, config.rollout.max_new_tokens
    if not buffer:
        return judged
    tokens: Any = np.array([[one.tokens for one in group] for group in judged], np.float32)
    penalties = np.asarray(overlong_penalty(tokens, max_length=limit, buffer=buffer))
    return [
        [
            dataclasses.replace(
                one,
                reward=one.reward + float(penalty),
                parts=one.parts | {"overlong": float(penalty)},
            )
            for one, penalty in zip(group, row, strict=True)
        ]
        for group, row in zip(judged, penalties, strict=True)
    ]
