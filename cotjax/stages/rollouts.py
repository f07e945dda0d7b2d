"""What every stage does that samples groups of completions in each step.

prompts -> rollout -> rewards
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, is_reference
from cotjax.curriculum.prompt_stream import BucketStream
from cotjax.interfaces import DataStream, Limit, Program, PromptBatch, Record
from cotjax.parallel import processes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import check_divides
from cotjax.progress import waiting
from cotjax.rollout.generate import generate
from cotjax.stages.ahead import Ahead
from cotjax.stages.base import BaseStage
from cotjax.stages.policy_programs import rollout_programs
from cotjax.student import guards, preflight
from cotjax.student.generate import rollout_params, rollout_sampling
from cotjax.student.groups import RolloutGroups
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import (
    RewardFn,
    UserReward,
    check_rewarded,
    completion_row,
    judge_own,
    part_means,
    solve_reward,
)
from cotjax.student.token_row import token_row

KEPT = 2  # groups of a step in completions.jsonl, and completions of each


def nothing() -> Iterable[Program]:
    """Of a stream that asks no model for its order."""
    return ()


class RolloutStage(BaseStage):
    """A stage that samples, without its loss; `cotjax.interfaces.Stage` says what members do.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained, and samples.
      held_out: what it is evaluated on.
      data: opens the stream of prompts, given the run folder if there is one; see `prompt_stream`.
      data_programs: what that compiles.
      reward: what "bridge" stands for as `reward.function`; None: what it is in evaluations.
      shows_steps: whether prompts show all the teacher's steps by design.
      mined: tokens that were sampled before the first step, to choose or order its prompts.
      notes: sentences for the run's log, before those on memory.
    """

    _folder: pathlib.Path | None = None  # of the run; there after `prepare`

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: LoadedPolicy,
        held_out: list[Record],
        *,
        data: Callable[[pathlib.Path | None], BucketStream],
        data_programs: Callable[[], Iterable[Program]] = nothing,
        reward: RewardFn | None = None,
        shows_steps: bool = False,
        mined: Callable[[], int] = lambda: 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        check_divides(mesh, config.rollout.prompts, "rollout.prompts")
        check_divides(student.rollout_mesh, config.rollout.prompts, "rollout.prompts", samples=True)
        super().__init__(config, mesh, student, held_out)
        self._open_data, self._data_programs = data, data_programs
        own = self.reward_held_out  # a user's, called in the same processes
        self.reward = own if isinstance(own, UserReward) else reward or solve_reward
        self.shows_steps, self._mined = shows_steps, mined
        self.sampling = rollout_sampling(config.rollout, student)
        memory = preflight.check_fits(
            student,
            preflight.rollout_use(config, self.sampling),
            preflight.evaluation_use(config, student, len(held_out)),
        )
        self.notes = (*student.notes, *notes, *memory)
        self.limits: dict[str, Limit] = {}
        self.root = jax.random.key(config.seed)

    @functools.cached_property
    def stream(self) -> BucketStream:
        """The stream of prompts."""
        return self._open_data(self._folder)

    @functools.cached_property
    def ahead(self) -> Ahead | None:
        """What samples a step ahead; None samples each step when it is asked for."""
        return None

    @functools.cached_property
    def data(self) -> DataStream:
        """Where the data stands: with the stream of prompts."""
        return self.ahead or self.stream

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the golds and what else there is, and opens the stream."""
        told = (*super().prepare(folder), *self.prepare_others())
        self._folder = folder
        assert self.stream is not None, "it is opened here, where it may measure difficulty"
        return told

    def close(self) -> None:
        """Ends what samples ahead, in which no thread is left behind a run that has raised."""
        if ahead := vars(self).get("ahead"):
            ahead.close()

    def prepare_others(self) -> tuple[str, ...]:
        """What a stage prepares before the stream is opened; sentences for the run's log."""
        return ()

    def programs(self) -> Sequence[Program]:
        """Those of the order of the prompts, of every stage, and the rollout."""
        sampled = rollout_programs(self.student, self.config, self.mesh, self.sampling)
        return (*self._data_programs(), *super().programs(), *sampled)

    # A step.

    def sample(self, params: Any, step: int) -> tuple[RolloutGroups, dict[str, Any]]:
        """Everything that is sampled for a step, and its metrics; may open the next bucket."""
        weights = rollout_params(self.student, self.config, self.mesh, params)
        if self.ahead is None:
            return self.sample_with(weights, step)
        asked = time.perf_counter()
        groups, metrics = self.ahead.take(weights, step)
        return groups, metrics | {"rollout_wait_s": time.perf_counter() - asked}

    def sample_with(self, weights: Any, step: int) -> tuple[RolloutGroups, dict[str, Any]]:
        """The same, with parameters as sampling wants them."""
        waited = time.perf_counter()
        batch = next(self.stream)
        began = time.perf_counter()
        groups = self.collect(batch, weights, jax.random.fold_in(self.root, step), step)
        seconds = time.perf_counter() - began
        metrics: dict[str, Any] = groups.metrics() | {
            "rollout_tok_s": groups.rollout.mask.sum() / seconds,
            "rollout_s": seconds,
            "data_wait_s": began - waited,
            "sampled_tokens": groups.tokens,
        }
        if not step and (mined := self._mined()):
            metrics["mined_tokens"] = mined
        if is_reference(self.config.reward.function):  # its parts are named by the user
            metrics |= part_means(groups.judged)
            metrics["unrewarded"] = int((~groups.rewarded).sum())
        metrics |= self.stream.metrics
        if self.stream.num_buckets > 1:
            metrics["bucket"] = self.stream.bucket + 1
            self.stream.report(metrics["accuracy"])
        return groups, metrics

    def collect(
        self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any, step: int
    ) -> RolloutGroups:
        """Everything that is sampled for a step whose first batch of prompts is given."""
        return self.sample_batch(batch, weights, key, step)

    def sample_batch(
        self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any, step: int
    ) -> RolloutGroups:
        """A batch of prompts sampled and rewarded."""
        del step  # rewards may depend on it in other stages
        prompts, records = batch
        mesh = self.student.rollout_mesh
        placed = parallel.shard(mesh, prompts)
        with waiting(f"generating {len(records) * self.sampling.group_size:,} completions"):
            rollout = generate(
                self.student.sampler,
                weights,
                placed,
                key,
                settings=self.sampling,
                stop_table=self.student.stop_table,
            )
            rollout = processes.fetch(rollout)
        judged = judge_own(mesh, self.student, self.config, records, rollout, self.reward)
        return RolloutGroups(prompts, rollout, records, judged)

    def alarms(self, groups: RolloutGroups) -> tuple[str, ...]:
        """Accidents of prompts and of sampling, a sentence each."""
        prompts, rollout, student = groups.prompts, groups.rollout, self.student
        shown = [row[mask] for row, mask in zip(prompts.tokens, prompts.mask, strict=True)]
        texts = student.tokenizer.batch_decode(shown, skip_special_tokens=False)
        return (
            *guards.leak_guard(texts, groups.records, shows_steps=self.shows_steps),
            *guards.end_check(rollout, (student.eos_id, *student.stop_ids)),
            *guards.repeated_seed(prompts, rollout, filters=self.sampling.filters),
            *filter(None, [check_rewarded(self.config, groups.judged)]),
        )


def examples(
    groups: RolloutGroups, tokenizer: Any, advantage: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Lines of completions.jsonl: two completions of each of the first two groups.

    Args:
      groups: of a step.
      tokenizer: of the student.
      advantage: [B, G] if the stage has one.
    """
    rows = []
    for place, record in enumerate(groups.records[:KEPT]):
        for number, one in enumerate(groups.judged[place][:KEPT]):
            row = completion_row(record, one) | token_row(tokenizer, groups, place, number)
            if advantage is not None:
                row["advantage"] = round(float(advantage[place, number]), 4)
            rows.append(row)
    return rows
