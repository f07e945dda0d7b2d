"""GRPO: sample a group of completions per prompt, reward them, learn from their differences.

prompts -> rollout -> rewards -> advantage -> (reference log-probs) -> loss -> update
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config, PolicyConfig
from cotjax.core.masking import token_sum_count
from cotjax.core.presets import Objective, make_objective, policy_advantage, policy_loss
from cotjax.data.pipeline import prompt_batches
from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch, Record, Rollout, ScoredGroups, Step
from cotjax.models.lora import join_adapter
from cotjax.models.policy import Policy
from cotjax.parallel import sharding as parallel
from cotjax.parallel.mesh import batch_devices, check_divides
from cotjax.rollout.engine import Sampling, generate
from cotjax.stages import common
from cotjax.training.evaluation import Completion
from cotjax.training.metrics import GRPO_COLUMNS
from cotjax.training.update import LossFn, init_state, make_update

SHORTEST_BUCKET = 64  # tokens; scoring and update are compiled once per doubling that occurs


class GRPOStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do."""

    columns = GRPO_COLUMNS

    def __init__(self, config: Config, mesh: Mesh) -> None:
        rollout, policy = config.rollout, config.policy
        check_divides(mesh, rollout.prompts, "rollout.prompts")
        self.config, self.mesh = config, mesh
        self.micro_batch = _micro_batch(policy.micro_batch, rollout.prompts, mesh)
        self.inner_updates = policy.inner_updates
        self.student = self.open_student()
        train, self.held_out = common.open_records(config, self.student)
        self.objective = open_objective(policy)
        self.config = dataclasses.replace(config, policy=resolved(policy, self.objective))
        self.notes = (*self.student.notes, f"the loss is {self.objective}")
        self.sampling = Sampling(
            group_size=rollout.group_size,
            max_new_tokens=rollout.max_new_tokens,
            eos_id=self.student.eos_id,
            pad_id=self.student.pad_id,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            min_p=rollout.min_p,
            rows=rollout.rows,
            share=rollout.share,
        )
        self.root = jax.random.key(config.seed)
        optimizer = common.make_optimizer(config.optimizer, config.steps * policy.inner_updates)
        # The update reuses the state's buffers; a reference needs its own.
        start = jax.tree.map(lambda leaf: leaf.copy(), self.student.params)
        self.state = init_state(start, optimizer)
        # With one update per batch, the update's own program scores the reference.
        inside = self.objective.beta and policy.inner_updates == 1
        frozen = Frozen(self.student.base, self.student.reference if inside else None)
        temperature = rollout.temperature if self.objective.tempered else 1.0
        loss = make_loss(
            self.student.policy,
            self.objective,
            temperature=temperature,
            max_length=rollout.max_new_tokens,
        )
        self.update = make_update(loss, optimizer, self.state, frozen)
        self.advantage = jax.jit(functools.partial(policy_advantage, self.objective))
        self.score = jax.jit(
            lambda policy, params, groups: logprobs(policy, params, groups, temperature)[0],
            static_argnums=0,
        )
        self.data = prompt_batches(train, self.encode, seed=config.seed, batch_size=rollout.prompts)

    def open_student(self) -> common.Student:
        """The student that the config names."""
        return common.open_student(self.config, self.mesh)

    def encode(self, ids: list[int], records: list[Record]) -> PromptBatch:
        """Records as prompts; `ids` decide the random numbers of their completions."""
        limit = self.config.rollout.max_prompt_tokens
        return common.prompt_batch(self.student, ids, records, limit)

    def next_step(self, params: Any, step: int) -> Step:
        """Samples, rewards and scores the groups of one step."""
        waited = time.perf_counter()
        prompts, records = next(self.data)
        began = time.perf_counter()
        key = jax.random.fold_in(self.root, step)
        rollout = generate(
            self.student.policy,
            parallel.for_rollout(self.mesh, join_adapter(params, self.student.base)),
            parallel.shard(self.mesh, prompts),
            key,
            settings=self.sampling,
            stop_table=self.student.stop_table,
        )
        rollout = jax.tree.map(np.asarray, rollout)
        sampled = time.perf_counter()
        judged = common.judge(self.student, self.config, records, rollout)
        micros = [self._score(params, micro) for micro in self._micros(prompts, rollout, judged)]
        rows, width = rollout.ended.size, prompts.mask.shape[1]
        metrics = _metrics(judged) | {
            "rollout_tok_s": rollout.mask.sum() / (sampled - began),
            "rollout_s": sampled - began,
            "data_wait_s": began - waited,
            # Nominal: every completion counts its prompt, which is computed once for the group.
            "batch_tokens": int(rollout.mask.sum()) + rows * width,
        }
        examples = [
            common.completion_row(record, one)
            for record, group in zip(records[:2], judged, strict=False)
            for one in group[:2]
        ]
        return Step(micros, metrics, examples, _alarm(judged))

    def _micros(
        self, prompts: PromptBatch, rollout: Rollout, judged: list[list[Completion]]
    ) -> Iterator[ScoredGroups]:
        """Groups of like length together, so that no micro-batch is padded to another's longest."""
        reward = np.array([[one.reward for one in group] for group in judged], np.float32)
        advantage: Any = np.asarray(self.advantage(reward))
        longest = rollout.mask.sum(axis=-1).max(axis=-1)
        order = np.argsort(longest, kind="stable").reshape(-1, self.micro_batch)
        for rows in order:
            size = _bucket(int(longest[rows].max()), self.sampling.max_new_tokens)
            groups = ScoredGroups(
                prompt=prompts.tokens[rows],
                prompt_mask=prompts.mask[rows],
                completion=rollout.tokens[rows, :, :size],
                completion_mask=rollout.mask[rows, :, :size],
                advantage=advantage[rows],
                logp_sampler=rollout.logp[rows, :, :size],
            )
            yield parallel.shard(self.mesh, groups)

    def _score(self, params: Any, groups: ScoredGroups) -> ScoredGroups:
        """Adds what several updates of one batch compare with: log-probabilities before the first.

        With one update nothing is scored here: the policy that sampled is the policy that learns,
        so the ratio is 1.
        """
        if self.inner_updates == 1:
            return groups
        policy, student = self.student.policy, self.student
        logp_old = self.score(policy, join_adapter(params, student.base), groups)
        logp_ref = None
        if self.objective.beta:
            logp_ref = self.score(policy.without_adapter, student.reference, groups)
        return dataclasses.replace(groups, logp_old=logp_old, logp_ref=logp_ref)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return common.evaluate(self.student, self.config, self.mesh, params, self.held_out)


class Frozen(NamedTuple):
    """Parameters that the loss reads and no update changes.

    Attributes:
      base: those beside an adapter; empty without one.
      reference: those of the reference, for the loss to score; None if it is scored already.
    """

    base: Any
    reference: Any


def logprobs(
    policy: Policy, params: Any, groups: ScoredGroups, temperature: float
) -> tuple[Array, Array]:
    """Log-probabilities and entropies [B, G, T] of completions; each prompt is computed once."""
    hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
    mask = groups.completion_mask
    return common.head_logprobs(policy, params, hidden, groups.completion, mask, temperature)


def make_loss(
    policy: Policy, objective: Objective, *, temperature: float, max_length: int
) -> LossFn:
    """The loss of the update: `core.policy_loss` of a micro-batch as (sum, count, metrics).

    Args:
      policy: the decoder.
      objective: which loss.
      temperature: of the log-probabilities.
      max_length: longest completion of the run, in tokens.
    """

    def loss(
        params: Any, frozen: Frozen, groups: ScoredGroups
    ) -> tuple[Array, Array, dict[str, Any]]:
        logp, entropy = logprobs(policy, join_adapter(params, frozen.base), groups, temperature)
        logp_ref = groups.logp_ref
        if frozen.reference is not None:
            logp_ref, _ = logprobs(policy.without_adapter, frozen.reference, groups, temperature)
        total, count, metrics = policy_loss(
            objective,
            logp,
            groups.logp_old,
            logp_ref,
            groups.advantage[..., None],
            groups.completion_mask,
            max_length=max_length,
            entropy=entropy,
        )
        gap = abs(jax.lax.stop_gradient(logp) - groups.logp_sampler)
        return total, count, metrics | {"sampler_gap": token_sum_count(gap, groups.completion_mask)}

    return loss


# Keys of the config's [policy] and what they set in an `Objective`.
_SETTINGS = {
    "clip_low": "clip_low",
    "clip_high": "clip_high",
    "dual_clip": "dual_clip",
    "kl_estimator": "kl",
    "kl_coefficient": "beta",
    "advantage_scale": "scale",
    "ddof": "ddof",
    "eps": "eps",
    "entropy_bonus": "entropy_bonus",
}


def open_objective(policy: PolicyConfig) -> Objective:
    """The objective of a config: the preset's conventions, the variant's, then single settings."""
    given = {_SETTINGS[key]: getattr(policy, key) for key in _SETTINGS}
    chosen = {name: value for name, value in given.items() if value != "auto"}
    if "dual_clip" in chosen:
        chosen["dual_clip"] = chosen["dual_clip"] or None
    name = None if policy.objective == "auto" else policy.objective
    return make_objective(name, preset=policy.preset, **chosen)


def resolved(policy: PolicyConfig, objective: Objective) -> PolicyConfig:
    """The config with the objective's values where it said "auto", for people to read."""
    values = {key: getattr(objective, name) for key, name in _SETTINGS.items()}
    values["dual_clip"] = values["dual_clip"] or 0.0
    if objective.kl == "none":  # the term has its own distance, which no estimator names
        values["kl_estimator"] = "auto"
    return dataclasses.replace(policy, **values)


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


def _alarm(judged: list[list[Completion]]) -> str:
    """A sentence if most groups hold no right answer: equal rewards have zero advantage."""
    wrong = sum(not any(one.parts["correct"] for one in group) for group in judged)
    if 2 * wrong < len(judged):
        return ""
    return (
        f"no signal: in {wrong} of {len(judged)} groups every completion is wrong. Equal rewards "
        "have zero advantage, so these groups teach nothing. Take easier problems or a stronger "
        "student (--stage=sft first), or raise rollout.group_size or rollout.max_new_tokens."
    )


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
