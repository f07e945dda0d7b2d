"""Rewards of length beside BRIDGE's own, by `reward.length`; and prompts that ask for a length.

    none             outcome and form alone
    target           the prompt asks for a length, drawn per question (L1)
    group_relative   a right answer against the group's other right ones (Kimi k1.5)
    budget           right only within a limit that falls step by step (ThinkPrune)

Accuracy is what the verifier says under all of them, and the reward that an evaluation's rows show
is BRIDGE's, so that arms can be compared.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from cotjax.config import Config
from cotjax.cot import Verdict, limit_at, outcome_reward, relative_brevity, target_brevity
from cotjax.cot.rewards import RIGHT, WRONG
from cotjax.data.prompts import AskTarget
from cotjax.data.sources import Records
from cotjax.interfaces import Completion, Record
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import check_prompts
from cotjax.student.rewards import written_tokens
from cotjax.training.evaluation import JudgedCompletion

Groups = list[list[JudgedCompletion]]


@dataclasses.dataclass(frozen=True)
class DrawnTarget:
    """A record whose question asks for a length; drawn once for each, by seed and id.

    L1 does the same: every question of its data set has one target.
    """

    ask: AskTarget
    least: int
    most: int
    seed: int

    def __call__(self, record: Record) -> Record:
        """The record with its target."""
        drawn = np.random.default_rng((self.seed, *record.id.encode()))
        target = int(drawn.integers(self.least, self.most, endpoint=True))
        return _with_target(self.ask, record, target)


def _with_target(ask: AskTarget, record: Record, target: int) -> Record:
    return dataclasses.replace(record, question=ask(record.question, target), target=target)


def ask_targets(
    config: Config, student: LoadedPolicy, train: Records, held_out: list[Record]
) -> tuple[Records, list[Record]]:
    """The records of a run, whose questions ask for a length if `reward.length` is "target".

    Args:
      config: of the run.
      student: whose prompts they become.
      train: each is asked for a length of its own.
      held_out: all are asked for one length.

    Raises:
      InputError: the template file has no text for it, or a prompt is too long with it.
    """
    reward = config.reward
    if reward.length != "target":
        return train, held_out
    ask = student.prompts.for_length(reward.target_form)
    drawn = DrawnTarget(ask, reward.target_min, reward.target_max, config.seed)
    fitting = lambda records: _fitting(config, student, records, config.data.path)  # noqa: E731
    return train.mapped(drawn).checked(fitting), ask_target(config, student, held_out)


def ask_target(config: Config, student: LoadedPolicy, records: list[Record]) -> list[Record]:
    """Held-out records as evaluations ask them; arguments and errors as for `ask_targets`."""
    reward = config.reward
    if reward.length != "target":
        return records
    ask = student.prompts.for_length(reward.target_form)
    target = reward.target_eval or (reward.target_min + reward.target_max) // 2
    asked = [_with_target(ask, record, target) for record in records]
    path = config.data.eval_path
    return _fitting(config, student, asked, path, asked=True) if asked else asked


def _fitting(
    config: Config, student: LoadedPolicy, records: list[Record], path: str, *, asked: bool = False
) -> list[Record]:
    solve = student.prompts.solve
    text = lambda record: solve(record.question)  # noqa: E731
    return check_prompts(student.tokenizer, records, config, path, text, asked=asked)


class LengthControl:
    """What a run rewards of lengths, if that is not BRIDGE's reward.

    Only right and well-formed completions gain or lose by their length; "budget" makes right ones
    that are too long wrong.

    Args:
      config: of the run.
    """

    def __init__(self, config: Config) -> None:
        self._reward, self._steps = config.reward, config.steps
        self._most = config.rollout.max_new_tokens

    @staticmethod
    def reward(
        config: Config, record: Record, completion: Completion, verdict: Verdict
    ) -> tuple[float, dict[str, float]]:
        """What a completion earns whatever its length and the others of its group."""
        del config
        return outcome_reward(
            completion.text,
            gold=record.answer,
            length=written_tokens(completion),
            verdict=verdict,
        )

    def rewarded(
        self, records: Sequence[Record], judged: Sequence[Sequence[JudgedCompletion]], step: int
    ) -> Groups:
        """Groups with what their lengths earn.

        Args:
          records: B.
          judged: B lists of G, each as `reward` gives it.
          step: from 0; decides the limit.
        """
        table = {
            "none": lambda record, group: list(group),
            "target": self._by_target,
            "group_relative": lambda record, group: self._by_group(group),
            "budget": lambda record, group: [self._limited(one, step) for one in group],
        }
        change = table[self._reward.length]
        return [change(record, group) for record, group in zip(records, judged, strict=True)]

    def metrics(self, judged: Sequence[Sequence[JudgedCompletion]], step: int) -> dict[str, float]:
        """What a step's lengths earned, by the parts' names; tokens for lengths.

        Args:
          judged: the groups of the step, as `rewarded` gave them.
          step: from 0.
        """
        flat = [one for group in judged for one in group]
        if self._reward.length == "none":
            return {}
        if self._reward.length == "budget":
            over = float(np.mean([one.parts["over_limit"] for one in flat]))
            return {"limit": float(self.limit(step)), "over_limit": over}
        found = {"reward_brevity": float(np.mean([one.parts["brevity"] for one in flat]))}
        if self._reward.length == "target":
            gaps = [abs(one.parts["length"] - one.parts["target"]) for one in flat]
            found |= {"target_gap": float(np.mean(gaps))}
        return found

    def limit(self, step: int) -> int:
        """The most tokens that a right completion may have at a step, end token included."""
        reward = self._reward
        return limit_at(
            step,
            start=reward.limit_start or self._most,
            end=reward.limit_end,
            steps=reward.limit_steps or self._steps,
            schedule=reward.limit_schedule,
            rounds=reward.limit_rounds,
        )

    def _by_target(
        self, record: Record, group: Sequence[JudgedCompletion]
    ) -> list[JudgedCompletion]:
        form, weight = self._reward.target_form, self._reward.target_weight
        found: list[JudgedCompletion] = []
        for one in group:
            length, target = one.parts["length"], record.target
            brevity = target_brevity(length, target, form=form, weight=weight)
            told = {"target": float(target)}
            found.append(_with(one, brevity if _is_right(one) else 0.0, told))
        return found

    def _by_group(self, group: Sequence[JudgedCompletion]) -> list[JudgedCompletion]:
        right = [one.parts["length"] for one in group if _is_right(one)]
        each: Iterator[float] = iter(relative_brevity(right))
        weight = self._reward.relative_weight
        return [_with(one, weight * next(each) if _is_right(one) else 0.0) for one in group]

    def _limited(self, one: JudgedCompletion, step: int) -> JudgedCompletion:
        over = one.tokens > self.limit(step)
        parts = one.parts | {"over_limit": float(over)}
        if not over:
            return dataclasses.replace(one, parts=parts)
        return dataclasses.replace(one, reward=WRONG, parts=parts | {"outcome": WRONG})


def _is_right(one: JudgedCompletion) -> bool:
    """Whether it is right and well-formed."""
    return one.parts["outcome"] == RIGHT


def _with(
    one: JudgedCompletion, brevity: float, told: dict[str, float] | None = None
) -> JudgedCompletion:
    """A completion with the length part of its reward."""
    parts = one.parts | (told or {}) | {"brevity": brevity}
    return dataclasses.replace(one, reward=one.reward + brevity, parts=parts)
