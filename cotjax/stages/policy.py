"""What every policy stage does in a step.

prompts -> rollout -> rewards -> advantage -> (reference log-probs) -> loss -> update
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.objectives import Objective, policy_advantage
from cotjax.curriculum.prompt_stream import BucketStream
from cotjax.interfaces import Program, PromptBatch, Record, ScoredGroups, Step
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.stages.ahead import Ahead
from cotjax.stages.policy_loss import (
    TeacherTerm,
    in_words,
    logprobs,
    make_loss,
    open_objective,
    preset_notes,
    resolved,
    user_term,
)
from cotjax.stages.policy_programs import (
    advantage_programs,
    group_shapes,
    score_programs,
    scored_shapes,
    widths_of,
)
from cotjax.stages.rollouts import RolloutStage, examples, nothing
from cotjax.student import guards, preflight
from cotjax.student.groups import RolloutGroups, micro_batch_prompts
from cotjax.student.length_control import LengthControl
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import RewardFn, add_overlong
from cotjax.training.metrics import SPEED, Column

COLUMNS = (
    Column("accuracy", "", "accuracy", "{:.1%}", 8),
    Column("reward", "", "reward", "{:+.3f}", 7),
    Column("length", "tokens", "completion_tokens", "{:.1f}", 7),
    Column("KL", "nats", "kl", "{:.4f}", 7),
    Column("entropy", "nats", "entropy", "{:.3f}", 7),
    Column("no signal", "groups", "no_signal", "{:.1%}", 9),
    Column("rollout", "tokens/s", "rollout_tok_s", "{:,.0f}", 8),
    SPEED,
)


# An objective to the teachers that are added to it.
OpenTeachers = Callable[[Objective], TeacherTerm]


class PolicyStage(RolloutStage):
    """A policy-gradient stage; `cotjax.interfaces.Stage` says what the members do.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained; its start is the reference.
      held_out: what it is evaluated on.
      data: opens the stream of prompts, given the run folder if there is one; see `prompt_stream`.
      data_programs: what that compiles.
      reward: what "bridge" stands for as `reward.function`; None: what it is in evaluations.
      shows_steps: whether prompts show all the teacher's steps by design.
      updates: optimizer updates per step, for the schedule; 0 = the config's inner updates.
      teachers: opens the teachers that are added to the loss; None without.
      length: rewards lengths in another way than `reward`, and makes it of outcome and form alone.
      mined: tokens that were sampled before the first step, to choose or order its prompts.
    """

    columns = COLUMNS

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
        updates: int = 0,
        teachers: OpenTeachers | None = None,
        length: LengthControl | None = None,
        mined: Callable[[], int] = lambda: 0,
    ) -> None:
        rollout, policy = config.rollout, config.policy
        self.objective = open_objective(policy, user_term(config))
        super().__init__(
            *(config, mesh, student, held_out),
            data=data,
            data_programs=data_programs,
            reward=reward or (length.reward if length else None),
            shows_steps=shows_steps,
            mined=mined,
            notes=(f"the loss: {in_words(self.objective)}.", *preset_notes(policy)),
        )
        self.resolved = {"policy": resolved(self.objective)}
        self.length = length
        self.micro_batch = micro_batch_prompts(policy.micro_batch, rollout.prompts, mesh)
        self.inner_updates = policy.inner_updates
        self.teachers = teachers(self.objective) if teachers else None
        temperature = rollout.temperature if self.objective.tempered else 1.0
        comparable = temperature == rollout.temperature
        if comparable and not rollout.off_policy_steps:  # else the policies differ by an update
            self.limits |= preflight.gap_limit(config)
        loss = make_loss(
            student.policy,
            self.objective,
            temperature=temperature,
            max_length=rollout.max_new_tokens,
            sampler_correction=policy.sampler_correction,
            teachers=self.teachers,
        )
        self.learn_from(
            loss,
            config.steps * (updates if updates else policy.inner_updates),
            # With one update per batch, the update's own program scores the reference.
            scores_reference=bool(self.objective.beta) and policy.inner_updates == 1,
            # Teachers' outputs hold their heads, which micro-batches share.
            scan=self.teachers is None or self.teachers.by_gap,
        )

        def advantage(reward: Any, baseline: Any) -> Any:
            return policy_advantage(self.objective, reward, baseline)

        def score(policy: Policy, params: Any, groups: ScoredGroups) -> Any:
            return logprobs(policy, params, groups, temperature)[0]

        place = parallel.batched(mesh)
        self.advantage = jax.jit(advantage)
        self.score = jax.jit(score, static_argnums=0, out_shardings=place)

    @functools.cached_property
    def ahead(self) -> Ahead | None:
        """What samples a step ahead, if the config asks for it."""
        if not self.config.rollout.off_policy_steps:
            return None
        return Ahead(self.stream, self.sample_with, self.config.steps)

    def prepare_others(self) -> tuple[str, ...]:
        """Checks the teachers."""
        return () if self.teachers is None else self.teachers.prepare()

    def programs(self) -> Sequence[Program]:
        """Those of every stage; the rollout, what scores it, and the update."""
        config, student, reference = self.config, self.student, bool(self.objective.beta)
        micros = group_shapes(config, self.mesh, self.micro_batch)
        scoring: Sequence[Program] = ()
        if config.policy.inner_updates > 1:
            scoring = tuple(score_programs(student, self.score, micros, reference=reference))
            micros = scored_shapes(micros, reference=reference)
        taught, count = (), config.rollout.prompts // self.micro_batch
        if self.teachers is not None:
            taught = self.teachers.programs(micros)
            micros = self.teachers.micro_shapes(micros)
        return (
            *super().programs(),
            *taught,
            *advantage_programs(config, self.advantage),
            *scoring,
            *self.update_programs(micros, count=count),
        )

    # A step.

    def next_step(self, params: Any, step: int) -> Step:
        """Samples, rewards and scores the groups of one step."""
        return self.sample_step(params, step)[0]

    def sample_step(self, params: Any, step: int) -> tuple[Step, RolloutGroups]:
        """A step, and everything that was sampled for it."""
        everything, metrics = self.sample(params, step)
        kept, counts = self._kept(everything)
        advantage, told = self._advantage(kept), {}
        micros = [self._score(params, one) for one in self._micros(kept, counts, advantage)]
        if self.teachers is not None:
            micros, told = self.teachers.add_teacher_term(micros, step)
        rows, width = kept.rollout.ended.size, kept.prompts.mask.shape[1]
        metrics |= told | {
            # Nominal: every completion counts its prompt, which is computed once for the group.
            "batch_tokens": int(kept.rollout.mask.sum()) + rows * width,
            "trained_tokens": self.config.policy.inner_updates * kept.tokens,
            "no_signal": float(1 - self._informative(everything).mean()),
        }
        if self.length is not None:
            metrics |= self.length.metrics(everything.judged, step)
        if self.config.policy.refill:
            metrics["sampled_groups"] = len(everything.records)
            metrics["dropped_groups"] = len(counts) - int(counts.any(axis=1).sum())
        work = Step(
            batch=micros,
            metrics=metrics,
            completions=examples(kept, self.student.tokenizer, advantage),
            alarm="\n".join(self.alarms(everything)),
            limits=self.limits,
            bad=preflight.bad_completions(self.config, metrics["nonfinite"]),
            about={} if self.teachers is None else self.teachers.about(step),
            data=[_digested(micro) for micro in micros],
            groups=everything,
        )
        return work, everything

    def alarms(self, groups: RolloutGroups) -> tuple[str, ...]:
        """Those of sampling, and batches without a gradient."""
        return (*super().alarms(groups), *guards.no_signal(groups.judged))

    def sample_batch(
        self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any, step: int
    ) -> RolloutGroups:
        """A batch of prompts sampled and rewarded, also for its lengths."""
        groups = super().sample_batch(batch, weights, key, step)
        judged = groups.judged
        if self.length is not None:
            judged = self.length.rewarded(groups.records, judged, step)
        return dataclasses.replace(groups, judged=add_overlong(self.config, judged))

    def collect(
        self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any, step: int
    ) -> RolloutGroups:
        """Samples until every group of the batch has different rewards, or the budget is spent."""
        everything = self.sample_batch(batch, weights, key, step)
        for _ in range(self.config.policy.refill):
            if self._informative(everything).sum() >= self.config.rollout.prompts:
                break
            everything = everything.join(self.sample_batch(next(self.stream), weights, key, step))
        return everything

    def _kept(self, everything: RolloutGroups) -> tuple[RolloutGroups, np.ndarray]:
        """The groups of the update, and which completions [B, G] of these count.

        With dynamic sampling, groups of equal rewards that no other replaced do not.
        """
        refill, size, kept = self.config.policy.refill, self.config.rollout.prompts, everything
        if refill:
            order = np.argsort(~self._informative(everything), kind="stable")
            kept = everything.take(order[:size])
        counts = self._baseline(kept)
        if refill:
            counts &= self._informative(kept)[:, None]
        return kept, counts

    def _baseline(self, groups: RolloutGroups) -> np.ndarray:
        """[B, G] True where a completion counts in its group's baseline."""
        masked = self.config.policy.overlong == "mask"
        return groups.counted & groups.rollout.ended if masked else groups.counted

    def _informative(self, groups: RolloutGroups) -> np.ndarray:
        """[B] True where a completion of the group has an advantage that is not 0."""
        return groups.informative_among(self._baseline(groups))

    def _advantage(self, groups: RolloutGroups) -> np.ndarray:
        """[B, G] over the completions that count in a group's baseline."""
        masked = self.config.policy.overlong == "mask"
        baseline, reward = self._baseline(groups), groups.reward
        arguments: Any = reward, baseline if masked or not baseline.all() else None
        return np.asarray(self.advantage(*arguments))

    def _micros(
        self, groups: RolloutGroups, counts: np.ndarray, advantage: np.ndarray
    ) -> Iterator[ScoredGroups]:
        """Micro-batches on the mesh."""
        for micro in groups.micro_batches(
            advantage,
            counts,
            prompts=self.micro_batch,
            longest=self.sampling.max_new_tokens,
            pad_id=self.student.pad_id,
            widths=widths_of(self.config),
        ):
            yield parallel.shard(self.mesh, micro)

    def _score(self, params: Any, groups: ScoredGroups) -> ScoredGroups:
        """Adds what several updates of one batch compare with: log-probabilities before the first.

        With one update nothing is scored here: the policy that learns has not moved yet, so the
        ratio is 1. Completions of an older policy are weighed by `policy.sampler_correction`.
        """
        if self.config.policy.inner_updates == 1:
            return groups
        policy, student = self.student.policy, self.student
        logp_old = self.score(policy, student.all_params(params), groups)
        logp_ref = None
        if self.objective.beta:
            logp_ref = self.score(policy.without_adapter, student.reference, groups)
        return dataclasses.replace(groups, logp_old=logp_old, logp_ref=logp_ref)


def _digested(groups: ScoredGroups) -> dict[str, Any]:
    """What a digest tells apart: all but the teachers' large outputs and the sampler's rounding."""
    names = "prompt", "prompt_mask", "completion", "completion_mask", "advantage"
    return {name: getattr(groups, name) for name in (*names, "logp_old", "logp_ref")}
