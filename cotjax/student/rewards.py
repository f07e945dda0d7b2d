"""The rewards of completions: decoded, judged, and gathered over the processes of the run."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, Plugin, RewardConfig, plugin
from cotjax.core.advantage import overlong_penalty
from cotjax.cot import Verdict, completion_reward, open_tag, read_completion
from cotjax.errors import PluginError
from cotjax.interfaces import Completion, End, Record, Rollout
from cotjax.parallel import processes
from cotjax.student.load import LoadedPolicy
from cotjax.student.reward_workers import RewardWorkers
from cotjax.student.verify import VerifierKey, open_verifier
from cotjax.training.evaluation import JudgedCompletion

Earned = tuple[float, dict[str, float]]  # a reward and its named parts
# A completion of a record, and what it says, to what it earns.
RewardFn = Callable[[Config, Record, Completion, Verdict], Earned]
LARGEST = float(np.finfo(np.float32).max)  # a reward; advantages are made of float32
RESERVED = ("correct", "well_formed", "overlong")  # parts that are not the user's


def solve_reward(
    config: Config, record: Record, completion: Completion, verdict: Verdict
) -> Earned:
    """BRIDGE's reward of a completion, and of every evaluation."""
    reward = config.reward
    return completion_reward(
        completion.text,
        gold=record.answer,
        teacher_steps=record.difficulty,
        words_per_step=reward.length_per_step,
        monotone=reward.monotone,
        unit=reward.unit,
        length=written_tokens(completion) if reward.unit == "tokens" else None,
        verdict=verdict,
    )


def written_tokens(completion: Completion) -> int:
    """A completion's length without the end token."""
    return completion.tokens - (completion.end == End.EOS)


class UserReward:
    """A user's reward function; what it raises or gives wrongly names it and the record.

    A function that the config names is called in processes of its own, see `reward_workers`; an
    object that Python gave is called in this one.

    Args:
      own: what `reward.function` names.
      settings: how it is called.
    """

    def __init__(self, own: Plugin, settings: RewardConfig) -> None:
        self.own = own
        apart = settings.workers > 0 and isinstance(own.value, str)
        self._workers = RewardWorkers(own, settings) if apart else None

    def earned(self, pairs: Sequence[tuple[Completion, Record]]) -> Iterator[Earned | PluginError]:
        """The reward of each completion of a record with its parts, or why it has none.

        Raises:
          InputError: no process for the function could be started.
        """
        given = self._workers(pairs) if self._workers else map(self._called, pairs)
        for gave, (_, record) in zip(given, pairs, strict=True):
            try:
                yield gave if isinstance(gave, PluginError) else self._read_single(gave, record)
            except PluginError as error:
                yield error

    def _called(self, pair: tuple[Completion, Record]) -> Any:
        try:
            return self.own(*pair, record=pair[1].id)
        except PluginError as error:
            return error

    def _read_single(self, gave: Any, record: Record) -> Earned:
        """What `_read` gives; its reward is finite in the format of advantages too."""
        reward, parts = self._read(gave, record)
        if not abs(reward) <= LARGEST:
            needs = f"it needs a reward between -{LARGEST:.2g} and {LARGEST:.2g}. Scale it."
            raise self.own.refuse(gave, needs, record.id)
        return reward, parts

    def _read(self, gave: Any, record: Record) -> Earned:
        """The reward, and its parts if the function names some.

        Raises:
          PluginError: it gave neither a number nor named numbers.
        """
        if not isinstance(gave, Mapping):
            needs = "it needs to give a finite number, or a dict of some. Return float(…)."
            return self.own.number(gave, needs, record.id), {}
        needs = 'it needs a finite number behind each name, such as {"format": 0.5}. Return such.'
        if not gave or not all(isinstance(name, str) for name in gave):
            raise self.own.refuse(gave, needs, record.id)
        taken = [name for name in RESERVED if name in gave]
        if taken:
            needs = f'"{taken[0]}" is a part that every completion has. Give yours another name.'
            raise self.own.refuse(gave, needs, record.id)
        try:
            parts = {name: self.own.number(one, needs) for name, one in gave.items()}
        except PluginError as error:  # shown with its name
            raise self.own.refuse(gave, needs, record.id) from error
        if "reward" in parts:
            return parts.pop("reward"), parts
        return sum(parts.values()), parts


Reward = RewardFn | UserReward


def open_reward(config: Config, built_in: RewardFn = solve_reward) -> Reward:
    """The reward that `reward.function` names.

    Args:
      config: of the run.
      built_in: what "bridge" stands for.

    Raises:
      InputError: see `plugin`.
    """
    own = plugin(config, "reward.function")
    return built_in if own is None else UserReward(own, config.reward)


def judge(
    student: LoadedPolicy,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: Reward = solve_reward,
    verifier: VerifierKey = "reward.verifier",
) -> list[list[JudgedCompletion]]:
    """Decodes and rewards a rollout (arrays on the host); B lists of G.

    Args:
      student: who wrote it.
      config: of the run.
      records: the problems.
      rollout: the completions.
      reward: what a completion earns.
      verifier: the key that names who reads and compares the answers.

    Raises:
      PluginError: a user's verifier did something wrong; names the record.
      InputError: no process for a user's reward could be started.
    """
    lengths = rollout.mask.sum(axis=-1)
    shown = lengths - (np.asarray(rollout.end) == End.EOS)  # without the end token
    flat = [
        row[:size]
        for rows, sizes in zip(rollout.tokens, shown, strict=True)
        for row, size in zip(rows, sizes, strict=True)
    ]
    texts = iter(student.tokenizer.batch_decode(flat, skip_special_tokens=False))
    read, reads = [], open_verifier(config, verifier)
    begun = open_tag(student.prompts.wrap("?"))  # a template may have begun the thinking
    for record, sizes, ends in zip(records, lengths, rollout.end, strict=True):
        for size, end in zip(sizes, ends, strict=True):
            text = next(texts)
            try:
                verdict = read_completion(begun + text, record.answer, verifier=reads)
            except PluginError as error:
                raise error.on(record.id) from error
            thinking = verdict.rationale.thinking
            completion = Completion(text, int(size), thinking, verdict.answer, End(end))
            read.append((record, completion, verdict))
    if isinstance(reward, UserReward):
        earned = reward.earned([(completion, record) for record, completion, _ in read])
    else:
        earned = (reward(config, *one) for one in read)
    judged = [_judged(*one) for one in zip(read, earned, strict=True)]
    size = rollout.mask.shape[1]
    return [judged[first : first + size] for first in range(0, len(judged), size)]


def _judged(
    read: tuple[Record, Completion, Verdict], earned: Earned | PluginError
) -> JudgedCompletion:
    _, completion, verdict = read
    reward, parts = (0.0, {}) if isinstance(earned, PluginError) else earned
    parts = {**parts, "correct": float(verdict.correct), "well_formed": float(verdict.well_formed)}
    failed = str(earned) if isinstance(earned, PluginError) else ""
    return JudgedCompletion(
        *(completion.text, completion.tokens, completion.end, reward, parts, failed),
        answer=completion.answer,
    )


def check_rewarded(config: Config, judged: Sequence[Sequence[JudgedCompletion]]) -> str:
    """What is to be told of the completions of a step that a user's function gave no reward.

    Returns:
      an alarm of one line; empty if there are none.

    Raises:
      PluginError: there are more of them than `reward.max_failed` allows.
    """
    flat = [one for group in judged for one in group]
    failed = [one.failed for one in flat if one.failed]
    if not failed:
        return ""
    first = " ".join(failed[0].split())
    told = f"{len(failed)} of {len(flat)} completions have no reward; the first: {first}"
    if len(failed) > config.reward.max_failed * len(flat):
        raise PluginError(
            told, f" These are more than reward.max_failed = {config.reward.max_failed:g} of them."
        )
    return f"failed rewards: {told}"


def judge_own(
    mesh: Mesh,
    student: LoadedPolicy,
    config: Config,
    records: Sequence[Record],
    rollout: Rollout,
    reward: Reward = solve_reward,
    verifier: VerifierKey = "reward.verifier",
) -> list[list[JudgedCompletion]]:
    """`judge`, for which each process judges the rows that it owns; the results are gathered.

    Raises:
      PluginError: see `judge`; in every process, if it was raised in one.
    """
    if jax.process_count() == 1:
        return judge(student, config, records, rollout, reward, verifier)
    owner = processes.owners(mesh, len(records))
    own = np.flatnonzero(owner == jax.process_index()).tolist()
    rows, wrong = [], None
    try:
        rows = judge(
            student,
            config,
            [records[row] for row in own],
            jax.tree.map(lambda leaf: leaf[own], rollout),
            reward,
            verifier,
        )
    except PluginError as error:
        wrong = error
    told = processes.gather(
        {
            "judged": [[dataclasses.asdict(one) for one in group] for group in rows],
            "wrong": list(wrong.args) if wrong else None,
        }
    )
    for other in told:
        if other["wrong"]:
            raise PluginError(*other["wrong"]) from wrong
    groups: list[list[JudgedCompletion]] = [[] for _ in records]
    for process, theirs in enumerate(told):
        rows = np.flatnonzero(owner == process).tolist()
        for row, group in zip(rows, theirs["judged"], strict=True):
            groups[row] = [JudgedCompletion(**one | {"end": End(one["end"])}) for one in group]
    return groups


def completion_row(record: Record, completion: JudgedCompletion) -> dict[str, Any]:
    """A line of completions.jsonl."""
    return {
        "id": record.id,
        "question": record.question,
        "gold": record.answer,
        "difficulty": record.difficulty,
        "completion": completion.text,
        "reward": completion.reward,
        "parts": completion.parts,
        "tokens": completion.tokens,
        "end": End(completion.end).name.lower(),
        **({"failed": completion.failed} if completion.failed else {}),
    }


def part_means(judged: Sequence[Sequence[JudgedCompletion]]) -> dict[str, float]:
    """The mean of each part of a user's reward, over the completions that have it."""
    values: dict[str, list[float]] = {}
    for one in (one for group in judged for one in group):
        for name, value in one.parts.items():
            if name not in ("correct", "well_formed"):
                values.setdefault(f"reward_{name}", []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def add_overlong(
    config: Config, judged: list[list[JudgedCompletion]]
) -> list[list[JudgedCompletion]]:
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
