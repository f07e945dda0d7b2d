"""What the policy stages optimise: the objective of a config, and its loss over scored groups."""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax import Array

from cotjax.config import PolicyConfig
from cotjax.core.masking import token_sum_count
from cotjax.core.presets import REDUCTIONS, Objective, make_objective, policy_loss
from cotjax.interfaces import ScoredGroups
from cotjax.models.lora import join_adapter
from cotjax.models.policy import Policy
from cotjax.stages import common
from cotjax.stages.coaching import Coach
from cotjax.training.update import LossFn


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
    return _scored(policy, params, groups, temperature)[1]


def _scored(
    policy: Policy, params: Any, groups: ScoredGroups, temperature: float
) -> tuple[Array, tuple[Array, Array]]:
    """Hidden states [B, G, T, D], and what `logprobs` gives."""
    hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
    mask = groups.completion_mask
    scores = common.head_logprobs(policy, params, hidden, groups.completion, mask, temperature)
    return hidden, scores


def make_loss(
    policy: Policy,
    objective: Objective,
    *,
    temperature: float,
    max_length: int,
    coach: Coach | None = None,
) -> LossFn:
    """The loss of the update: `core.policy_loss` of a micro-batch as (sum, count, metrics).

    Args:
      policy: the decoder.
      objective: which loss.
      temperature: of the log-probabilities.
      max_length: longest completion of the run, in tokens.
      coach: teachers whose distillation is added; None without.
    """

    def loss(
        params: Any, frozen: Frozen, groups: ScoredGroups
    ) -> tuple[Array, Array, dict[str, Any]]:
        params, mask = join_adapter(params, frozen.base), groups.completion_mask
        hidden, (logp, entropy) = _scored(policy, params, groups, temperature)
        logp_ref = groups.logp_ref
        if frozen.reference is not None:
            logp_ref, _ = logprobs(policy.without_adapter, frozen.reference, groups, temperature)
        advantage, said = groups.advantage[..., None], {}
        if coach is not None and coach.by_gap:
            advantage, said = coach.advantage(groups, logp)
        total, count, metrics = policy_loss(
            objective,
            logp,
            groups.logp_old,
            logp_ref,
            advantage,
            mask,
            max_length=max_length,
            entropy=entropy,
        )
        if coach is not None and not coach.by_gap:
            distance, said = coach.distance(groups, hidden, policy.head(params, whole=True))
            total += REDUCTIONS[objective.reduction](distance, mask, max_length)[0]
        # Of the policy that sampled, which later updates of a batch no longer are.
        trainer = jax.lax.stop_gradient(logp) if groups.logp_old is None else groups.logp_old
        gap = abs(trainer - groups.logp_sampler)
        return total, count, metrics | said | {"sampler_gap": token_sum_count(gap, mask)}

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
