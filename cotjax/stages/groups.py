"""Groups of completions: sampled, rewarded, scored. What every policy stage does in a step.

prompts -> rollout -> rewards -> advantage -> (reference log-probs) -> loss -> update
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.presets import policy_advantage
from cotjax.errors import InputError
from cotjax.interfaces import End, PromptBatch, Record, Rollout, ScoredGroups, Step
from cotjax.models.lora import join_adapter
from cotjax.parallel import processes
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices, check_divides
from cotjax.rollout.engine import generate
from cotjax.stages import common, guards, limits
from cotjax.stages.coaching import Coach
from cotjax.stages.completions import (
    RewardFn,
    completion_row,
    evaluate,
    judge_own,
    rollout_params,
    rollout_sampling,
    solve_reward,
)
from cotjax.stages.objective import Frozen, logprobs, make_loss, open_objective, resolved
from cotjax.training.evaluation import Completion
from cotjax.training.metrics import GRPO_COLUMNS
from cotjax.training.update import init_state, make_update

SHORTEST_BUCKET = 64  # tokens; scoring and update are compiled once per doubling that occurs


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Judged groups on the host; B of everything.

    Attributes:
      prompts: [B, P].
      rollout: [B, G, T].
      records: B.
      judged: B lists of G.
    """

    prompts: PromptBatch
    rollout: Rollout
    records: list[Record]
    judged: list[list[Completion]]

    @property
    def reward(self) -> np.ndarray:
        """[B, G]."""
        return np.array([[one.reward for one in group] for group in self.judged], np.float32)

    @property
    def finite(self) -> np.ndarray:
        """[B, G] False where a NaN or infinite logit ended the completion."""
        return np.asarray(self.rollout.end != End.NONFINITE)

    @property
    def informative(self) -> np.ndarray:
        """[B] True where rewards differ: equal ones have zero advantage."""
        return np.ptp(self.reward, axis=1) > 0

    def take(self, rows: Sequence[int] | np.ndarray) -> "Sampled":
        """Some groups, in the order of `rows`."""
        index = np.asarray(rows, int)
        arrays = jax.tree.map(lambda leaf: leaf[index], (self.prompts, self.rollout))
        prompts, rollout = arrays
        return Sampled(
            prompts,
            rollout,
            [self.records[row] for row in rows],
            [self.judged[row] for row in rows],
        )

    def join(self, other: "Sampled") -> "Sampled":
        """These groups, then the other's."""
        prompts, rollout = jax.tree.map(
            lambda *leaves: np.concatenate(leaves),
            (self.prompts, self.rollout),
            (other.prompts, other.rollout),
        )
        return Sampled(prompts, rollout, self.records + other.records, self.judged + other.judged)


class GroupStage:
    """A policy-gradient stage; `cotjax.interfaces.Stage` says what the members do.

    Args:
      config: of the run.
      mesh: devices.
      student: what learns; its start is the reference.
      held_out: what it is evaluated on.
      data: see `prompt_stream`; None if it is set before the first step.
      reward: what a completion earns.
      shows_steps: whether prompts show all the teacher's steps by design.
      updates: optimizer updates per step, for the schedule; 0 = the config's inner updates.
    """

    columns = GRPO_COLUMNS

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        student: common.Student,
        held_out: list[Record],
        *,
        data: Any = None,
        reward: RewardFn = solve_reward,
        shows_steps: bool = False,
        updates: int = 0,
    ) -> None:
        rollout, policy = config.rollout, config.policy
        check_divides(mesh, rollout.prompts, "rollout.prompts")
        self.mesh, self.student, self.data, self.held_out = mesh, student, data, held_out
        self.reward, self.shows_steps = with_overlong(reward), shows_steps
        self.micro_batch = _micro_batch(policy.micro_batch, rollout.prompts, mesh)
        self.inner_updates = policy.inner_updates
        self.objective = open_objective(policy)
        self.config = dataclasses.replace(config, policy=resolved(policy, self.objective))
        self.sampling = rollout_sampling(rollout, eos_id=student.eos_id, pad_id=student.pad_id)
        uses = (
            limits.rollout_use(config, self.sampling),
            limits.evaluation_use(config, student, mesh),
        )
        room = limits.check_room(student, mesh, *uses)
        self.notes = (*student.notes, f"the loss is {self.objective}", *room)
        self.coach = None
        if config.distill.coefficient:
            self.coach = Coach(config, mesh, student, self.objective, held_out)
            self.notes += self.coach.notes
        self.root = jax.random.key(config.seed)
        per_step = updates if updates else policy.inner_updates
        self.optimizer = common.make_optimizer(config.optimizer, config.steps * per_step)
        # The update reuses the state's buffers; a reference needs its own.
        start = jax.tree.map(lambda leaf: leaf.copy(), student.params)
        self.state = init_state(start, self.optimizer)
        # With one update per batch, the update's own program scores the reference.
        inside = self.objective.beta and policy.inner_updates == 1
        frozen = Frozen(student.base, student.reference if inside else None)
        temperature = rollout.temperature if self.objective.tempered else 1.0
        comparable = temperature == rollout.temperature
        self.limits = limits.sampler_limits(config, comparable=comparable)
        loss = make_loss(
            student.policy,
            self.objective,
            temperature=temperature,
            max_length=rollout.max_new_tokens,
            coach=self.coach,
        )
        # A lesson holds teachers' heads, which micro-batches share.
        scan = self.coach is None or self.coach.by_gap
        self.update = make_update(loss, self.optimizer, self.state, frozen, scan=scan)
        self.advantage = jax.jit(functools.partial(policy_advantage, self.objective))
        self.score = jax.jit(
            lambda policy, params, groups: logprobs(policy, params, groups, temperature)[0],
            static_argnums=0,
        )

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the extractor on the held-out golds; the folder is not needed."""
        del folder
        return guards.gold_check(self.held_out)

    def next_step(self, params: Any, step: int) -> Step:
        """Samples, rewards and scores the groups of one step."""
        return self.sample_step(params, step)[0]

    def sample_step(self, params: Any, step: int) -> tuple[Step, Sampled]:
        """A step, and everything that was sampled for it."""
        waited = time.perf_counter()
        batch = next(self.data)
        began = time.perf_counter()
        weights = rollout_params(self.student, self.config, self.mesh, params)
        key = jax.random.fold_in(self.root, step)
        everything, kept, counts = self._collect(batch, weights, key)
        sampled = time.perf_counter()
        micros = [self._score(params, micro) for micro in self._micros(kept, counts)]
        advice = {}
        if self.coach is not None:
            micros, advice = self.coach.advise(micros, step)
        rows, width = kept.rollout.ended.size, kept.prompts.mask.shape[1]
        metrics: dict[str, Any] = _metrics(everything.judged) | advice
        metrics |= {
            "rollout_tok_s": everything.rollout.mask.sum() / (sampled - began),
            "rollout_s": sampled - began,
            "data_wait_s": began - waited,
            "nonfinite": int((~everything.finite).sum()),
            # Nominal: every completion counts its prompt, which is computed once for the group.
            "batch_tokens": int(kept.rollout.mask.sum()) + rows * width,
        }
        if self.config.policy.refill:
            metrics["sampled_groups"] = len(everything.records)
            metrics["dropped_groups"] = len(counts) - int(counts.any(axis=1).sum())
        if self.data.num_levels > 1:
            metrics["level"] = self.data.level
            self.data.report(metrics["accuracy"])
        examples = [
            completion_row(record, one)
            for record, group in zip(kept.records[:2], kept.judged, strict=False)
            for one in group[:2]
        ]
        alarm = self._alarm(everything)
        return Step(micros, metrics, examples, alarm, self.limits), everything

    def _alarm(self, sampled: Sampled) -> str:
        prompts, rollout, student = sampled.prompts, sampled.rollout, self.student
        shown = [row[mask] for row, mask in zip(prompts.tokens, prompts.mask, strict=True)]
        texts = student.tokenizer.batch_decode(shown, skip_special_tokens=False)
        found = (
            *guards.leak_guard(texts, sampled.records, shows_steps=self.shows_steps),
            *guards.no_signal(sampled.judged),
            *guards.end_check(rollout, self.sampling.eos_id),
            *guards.repeated_seed(prompts, rollout),
        )
        return " ".join(found)

    def _sample(self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any) -> Sampled:
        prompts, records = batch
        placed = parallel.shard(self.mesh, prompts)
        rollout = generate(
            self.student.policy,
            weights,
            placed,
            key,
            settings=self.sampling,
            stop_table=self.student.stop_table,
        )
        rollout = processes.fetch(rollout)
        judged = judge_own(self.mesh, self.student, self.config, records, rollout, self.reward)
        return Sampled(prompts, rollout, records, judged)

    def _collect(
        self, batch: tuple[PromptBatch, list[Record]], weights: Any, key: Any
    ) -> tuple[Sampled, Sampled, np.ndarray]:
        """Samples until every group of the batch has different rewards, or the budget is spent.

        Returns:
          everything sampled, the groups of the update, and which completions [B, G] of these
          count: with dynamic sampling, groups of equal rewards that no other replaced do not.
        """
        policy, size = self.config.policy, self.config.rollout.prompts
        everything = self._sample(batch, weights, key)
        for _ in range(policy.refill):
            if everything.informative.sum() >= size:
                break
            everything = everything.join(self._sample(next(self.data), weights, key))
        kept = everything
        if policy.refill:
            kept = everything.take(np.argsort(~everything.informative, kind="stable")[:size])
        counts = np.ones(kept.rollout.ended.shape, bool)
        counts &= kept.finite
        if policy.refill:
            counts &= kept.informative[:, None]
        if policy.overlong == "mask":
            counts &= kept.rollout.ended
        return everything, kept, counts

    def _micros(self, sampled: Sampled, counts: np.ndarray) -> Iterator[ScoredGroups]:
        """Groups of like length together, so that no micro-batch is padded to another's longest."""
        prompts, rollout = sampled.prompts, sampled.rollout
        finite: Any = sampled.finite
        baseline = None if finite.all() else finite
        if self.config.policy.overlong == "mask":
            baseline = rollout.ended
        advantage: Any = np.asarray(self.advantage(sampled.reward, baseline))
        mask = rollout.mask & counts[..., None]
        # What made a logit NaN would make one in the trainer too, and 0 · NaN is NaN.
        pad = self.student.pad_id
        prompt: Any = np.where(finite.any(axis=1)[:, None], prompts.tokens, pad)
        completion: Any = np.where(finite[..., None], rollout.tokens, pad)
        longest = rollout.mask.sum(axis=-1).max(axis=-1)
        order = np.argsort(longest, kind="stable").reshape(-1, self.micro_batch)
        for rows in order:
            size = _bucket(int(longest[rows].max()), self.sampling.max_new_tokens)
            groups = ScoredGroups(
                prompt=prompt[rows],
                prompt_mask=prompts.mask[rows],
                completion=completion[rows, :, :size],
                completion_mask=mask[rows, :, :size],
                advantage=advantage[rows],
                logp_sampler=rollout.logp[rows, :, :size],
            )
            yield parallel.shard(self.mesh, groups)

    def _score(self, params: Any, groups: ScoredGroups) -> ScoredGroups:
        """Adds what several updates of one batch compare with: log-probabilities before the first.

        With one update nothing is scored here: the policy that sampled is the policy that learns,
        so the ratio is 1.
        """
        if self.config.policy.inner_updates == 1:
            return groups
        policy, student = self.student.policy, self.student
        logp_old = self.score(policy, join_adapter(params, student.base), groups)
        logp_ref = None
        if self.objective.beta:
            logp_ref = self.score(policy.without_adapter, student.reference, groups)
        return dataclasses.replace(groups, logp_old=logp_old, logp_ref=logp_ref)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return evaluate(self.student, self.config, self.mesh, params, self.held_out)


def with_overlong(reward: RewardFn) -> RewardFn:
    """A reward less DAPO's soft penalty near the token limit, if the config has a buffer.

        −min(max(t − (limit − buffer), 0) / buffer, 1)

    for t tokens without the end.

    Source: Yu et al. 2025, arXiv:2503.14476 (DAPO).
    """

    def penalised(
        config: Config, record: Record, text: str, tokens: int
    ) -> tuple[float, dict[str, float]]:
        earned, parts = reward(config, record, text, tokens)
        buffer = config.policy.overlong_buffer
        if not buffer:
            return earned, parts
        over = tokens - (config.rollout.max_new_tokens - buffer)
        penalty = -min(max(over, 0) / buffer, 1.0)
        return earned + penalty, parts | {"overlong": penalty}

    return penalised


def _micro_batch(per_device: int, prompts: int, mesh: Mesh) -> int:
    """Prompts per pass on all devices together."""
    whole = per_device * batch_devices(mesh)
    if whole == 0 or whole >= prompts:
        return prompts
    if prompts % whole:
        raise InputError(
            f"policy.micro_batch = {per_device}: on {batch_devices(mesh)} devices that is {whole} "
            f"prompts a pass, which does not divide rollout.prompts = {prompts}. Set "
            f"policy.micro_batch = 0 or rollout.prompts to a multiple of {whole}."
        )
    return whole


def _bucket(longest: int, limit: int) -> int:
    """The least of 64, 128, 256, … and the limit that holds `longest` tokens."""
    size = SHORTEST_BUCKET
    while size < longest:
        size *= 2
    return min(size, limit)


def _metrics(judged: list[list[Completion]]) -> dict[str, float]:
    """What the completions of a step say about the student."""
    flat = [one for group in judged for one in group]
    rewards = np.array([[one.reward for one in group] for group in judged])
    return {
        "accuracy": float(np.mean([one.parts["correct"] for one in flat])),
        "well_formed": float(np.mean([one.parts["well_formed"] for one in flat])),
        "reward": float(rewards.mean()),
        "completion_tokens": float(np.mean([one.tokens for one in flat])),
        "truncated": float(np.mean([not one.ended for one in flat])),
        "no_signal": float(np.mean(np.ptp(rewards, axis=1) == 0)),
    }
