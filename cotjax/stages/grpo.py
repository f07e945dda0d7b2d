"""GRPO: sample a group of completions per prompt, reward them, learn from their differences.

prompts -> rollout -> rewards -> advantage -> (reference log-probs) -> loss -> update
"""

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.core.masking import token_sum_count
from cotjax.core.presets import make_objective, policy_advantage, policy_loss
from cotjax.data.pipeline import prompt_batches
from cotjax.interfaces import PromptBatch, Record, Rollout, ScoredGroups, Step
from cotjax.parallel import mesh as parallel
from cotjax.rollout.engine import Sampling, generate
from cotjax.stages import common
from cotjax.training.evaluation import Completion
from cotjax.training.metrics import GRPO_COLUMNS
from cotjax.training.update import init_state, make_update

LOGITS_AT_ONCE = 2**24  # numbers, 64 MiB in float32
SHORTEST_BUCKET = 64  # tokens; the update is compiled once for each doubling that occurs


class GRPOStage:
    """See the module docstring; `cotjax.interfaces.Stage` says what the members do."""

    columns = GRPO_COLUMNS

    def __init__(self, config: Config, mesh: Mesh) -> None:
        rollout, policy = config.rollout, config.policy
        parallel.check_divides(mesh, rollout.prompts, "rollout.prompts")
        self.config, self.mesh = config, mesh
        self.inner_updates = policy.inner_updates
        self.student = self.open_student()
        train, self.held_out = common.open_records(config, self.student)
        self.objective = make_objective(
            policy.objective,
            clip_low=policy.clip_low,
            clip_high=policy.clip_high,
            kl=policy.kl_estimator,
            beta=policy.kl_coefficient,
            scale=policy.advantage_scale,
            ddof=policy.ddof,
            eps=policy.eps,
        )
        self.sampling = Sampling(
            group_size=rollout.group_size,
            max_new_tokens=rollout.max_new_tokens,
            eos_id=self.student.eos_id,
            pad_id=self.student.pad_id,
            temperature=rollout.temperature,
            top_k=rollout.top_k,
            top_p=rollout.top_p,
            min_p=rollout.min_p,
        )
        self.root = jax.random.key(config.seed)
        optimizer = common.make_optimizer(config.optimizer, config.steps * policy.inner_updates)
        # The update reuses the state's buffers; the reference needs its own.
        start = jax.tree.map(lambda leaf: leaf.copy(), self.student.params)
        self.state = parallel.replicate(mesh, init_state(start, optimizer))
        num_micro = rollout.prompts // policy.micro_batch if policy.micro_batch else 1
        self.update = make_update(self._loss, optimizer, num_micro=num_micro)
        self.score = jax.jit(lambda params, groups: self._logprobs(params, groups)[0])
        self.data = prompt_batches(train, self.encode, seed=config.seed, batch_size=rollout.prompts)

    def open_student(self) -> common.Student:
        """The student that the config names."""
        return common.open_student(self.config, self.mesh)

    def encode(self, ids: list[int], records: list[Record]) -> PromptBatch:
        """Records as prompts; `ids` decide the random numbers of their completions."""
        limit = self.config.rollout.max_prompt_tokens
        return common.prompt_batch(self.student, ids, records, limit)

    def _logprobs(self, params: Any, groups: ScoredGroups) -> tuple[Array, Array]:
        """Log-probabilities [B, G, T] at the sampling temperature, and entropies."""
        policy = self.student.policy
        unembed = policy.unembed(params)
        hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
        return chunked_token_logprobs(
            hidden,
            unembed,
            groups.completion,
            chunk_size=max(LOGITS_AT_ONCE // unembed.shape[0], 1),
            temperature=self.sampling.temperature,
            mask=groups.completion_mask,
        )

    def _loss(self, params: Any, groups: ScoredGroups) -> tuple[Array, Array, dict[str, Any]]:
        """The policy loss of a micro-batch as (sum, count)."""
        logp, entropy = self._logprobs(params, groups)
        total, count, metrics = policy_loss(
            self.objective,
            logp,
            groups.logp_old,
            groups.logp_ref,
            groups.advantage[..., None],
            groups.completion_mask,
            max_length=self.sampling.max_new_tokens,
            entropy=entropy,
        )
        gap = abs(jax.lax.stop_gradient(logp) - groups.logp_sampler)
        return total, count, metrics | {"sampler_gap": token_sum_count(gap, groups.completion_mask)}

    def next_step(self, params: Any, step: int) -> Step:
        """Samples, rewards and scores the groups of one step."""
        waited = time.perf_counter()
        prompts, records = next(self.data)
        began = time.perf_counter()
        prompts = parallel.shard(self.mesh, prompts)
        key = jax.random.fold_in(self.root, step)
        rollout = generate(self.student.policy, params, prompts, key, settings=self.sampling)
        rollout = jax.tree.map(np.asarray, rollout)
        sampled = time.perf_counter()
        judged = common.judge(self.student, self.config, records, rollout)
        groups = self._groups(params, prompts, _trim(rollout), judged)
        metrics = _metrics(judged) | {
            "rollout_tok_s": rollout.mask.sum() / (sampled - began),
            "rollout_s": sampled - began,
            "data_wait_s": began - waited,
            # Nominal: every completion counts its prompt, which is computed once for the group.
            "batch_tokens": groups.completion.size + groups.advantage.size * prompts.mask.shape[1],
        }
        rows = [
            common.completion_row(record, one)
            for record, group in zip(records[:2], judged, strict=False)
            for one in group[:2]
        ]
        return Step(groups, metrics, rows, _alarm(judged))

    def _groups(
        self, params: Any, prompts: PromptBatch, rollout: Rollout, judged: list[list[Completion]]
    ) -> ScoredGroups:
        reward = np.array([[one.reward for one in group] for group in judged], np.float32)
        put = functools.partial(parallel.shard, self.mesh)
        groups = ScoredGroups(
            prompt=prompts.tokens,
            prompt_mask=prompts.mask,
            completion=put(rollout.tokens),
            completion_mask=put(rollout.mask),
            advantage=policy_advantage(self.objective, put(reward)),
            logp_sampler=put(rollout.logp),
            logp_old=None,
            logp_ref=None,
        )
        scored: dict[str, Array] = {}
        if self.inner_updates > 1:
            # With one update the policy that sampled is the policy that learns: the ratio is 1.
            scored["logp_old"] = self.score(params, groups)
        if self.objective.beta:
            scored["logp_ref"] = self.score(self.student.params, groups)
        return dataclasses.replace(groups, **scored)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        return common.evaluate(self.student, self.config, self.mesh, params, self.held_out)


def _trim(rollout: Rollout) -> Rollout:
    """Cuts padding that no row needs: to 64, 128, 256, … tokens, so that few shapes occur."""
    longest, size = int(rollout.mask.sum(axis=-1).max()), SHORTEST_BUCKET
    while size < longest:
        size *= 2
    size = min(size, rollout.tokens.shape[-1])
    tokens, mask, logp = (x[..., :size] for x in (rollout.tokens, rollout.mask, rollout.logp))
    return Rollout(tokens, mask, logp, rollout.ended)


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
