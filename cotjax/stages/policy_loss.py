"""What the policy stages optimise: the objective of a config, and its loss over scored groups."""

from typing import Any, Protocol

import jax
from jax import Array

from cotjax.config import PolicyConfig
from cotjax.core.grpo import truncated_importance_weight
from cotjax.core.masking import token_sum_count
from cotjax.core.objectives import REDUCTIONS, Objective, make_objective, policy_loss
from cotjax.interfaces import ScoredGroups
from cotjax.models.head import Head
from cotjax.models.policy import Policy
from cotjax.training.update import LossFn, SumCount


class TeacherTerm(Protocol):
    """What teachers add to a policy loss; see `teachers.policy_term`.

    Attributes:
      by_gap: whether they change the advantage, or add a divergence.
    """

    by_gap: bool

    def advantage(self, groups: ScoredGroups, logp: Array) -> tuple[Array, dict[str, SumCount]]:
        """The advantage [B, G, T] of every token, and metrics."""
        ...

    def divergence(
        self, groups: ScoredGroups, hidden: Array, head: Head
    ) -> tuple[Array, dict[str, SumCount]]:
        """What every token [B, G, T] adds to the loss, and metrics."""
        ...


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
    scores = policy.head_logprobs(params, hidden, groups.completion, mask, temperature)
    return hidden, scores


def make_loss(
    policy: Policy,
    objective: Objective,
    *,
    temperature: float,
    max_length: int,
    sampler_correction: float = 0.0,
    teachers: TeacherTerm | None = None,
) -> LossFn:
    """The loss of the update: `core.policy_loss` of a micro-batch as (sum, count, metrics).

    Args:
      policy: the decoder.
      objective: which loss.
      temperature: of the log-probabilities.
      max_length: longest completion of the run, in tokens.
      sampler_correction: cap of the weight that corrects for the sampler's numbers; 0 = off.
      teachers: their distillation is added; None without.
    """

    def loss(
        params: Any, reference: Any, groups: ScoredGroups
    ) -> tuple[Array, Array, dict[str, SumCount]]:
        mask = groups.completion_mask
        hidden, (logp, entropy) = _scored(policy, params, groups, temperature)
        logp_ref = groups.logp_ref
        if reference is not None:
            logp_ref, _ = logprobs(policy.without_adapter, reference, groups, temperature)
        advantage, told = groups.advantage[..., None], {}
        if teachers is not None and teachers.by_gap:
            advantage, told = teachers.advantage(groups, logp)
        # Of the policy that sampled, which later updates of a batch no longer are.
        logp_old = jax.lax.stop_gradient(logp) if groups.logp_old is None else groups.logp_old
        weight = None
        if sampler_correction:
            weight = truncated_importance_weight(
                logp_old, groups.logp_sampler, cap=sampler_correction
            )
        total, count, metrics = policy_loss(
            objective,
            logp,
            groups.logp_old,
            logp_ref,
            advantage,
            mask,
            max_length=max_length,
            entropy=entropy,
            weight=weight,
        )
        if teachers is not None and not teachers.by_gap:
            added, told = teachers.divergence(groups, hidden, policy.head(params, whole=True))
            total += REDUCTIONS[objective.reduction](added, mask, max_length)[0]
        gap = abs(logp_old - groups.logp_sampler)
        return total, count, metrics | told | {"sampler_gap": token_sum_count(gap, mask)}

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


def resolved(objective: Objective) -> dict[str, Any]:
    """The settings of [policy] that an objective stands for, for people to read."""
    values = {key: getattr(objective, name) for key, name in _SETTINGS.items()}
    values["dual_clip"] = values["dual_clip"] or 0.0
    if objective.kl == "none":  # the term has its own distance, which no estimator names
        values["kl_estimator"] = "auto"
    return values
