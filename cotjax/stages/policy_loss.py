"""What the policy stages optimise: the objective of a config, and its loss over scored groups."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from cotjax.config import Config, Plugin, PolicyConfig, name_of, plugin
from cotjax.core.grpo import truncated_importance_weight
from cotjax.core.masking import token_sum_count
from cotjax.core.objectives import (
    PRESETS,
    REDUCTIONS,
    VARIANTS,
    Objective,
    make_objective,
    policy_loss,
)  # fmt: skip
from cotjax.errors import InputError, PluginError
from cotjax.interfaces import Program, ScoredGroups
from cotjax.models.head import Head
from cotjax.models.policy import Policy
from cotjax.training.update import LossFn, SumCount


class TeacherTerm(Protocol):
    """What teachers add to a policy loss; see `teachers.policy_term`.

    Attributes:
      by_gap: whether they change the advantage, or add a divergence.
    """

    by_gap: bool

    def prepare(self) -> tuple[str, ...]:
        """What comes before the first step; sentences for the reader."""
        ...

    def programs(self, micros: Sequence[ScoredGroups]) -> Iterable[Program]:
        """What `prepare` and `add_teacher_term` compile for micro-batches of these shapes."""
        ...

    def micro_shapes(self, micros: Sequence[ScoredGroups]) -> list[ScoredGroups]:
        """The shapes that `add_teacher_term` makes of these."""
        ...

    def add_teacher_term(
        self, micros: Sequence[ScoredGroups], step: int
    ) -> tuple[list[ScoredGroups], dict[str, float]]:
        """Micro-batches with what the teachers in use give for them, and metrics."""
        ...

    def about(self, step: int) -> Mapping[str, str]:
        """Whose the arrays are that `add_teacher_term` adds; see `Step.about`."""
        ...

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


# Keys of [policy] that an objective's term, or its baseline, has no place for.
CLIPS = ("clip_low", "clip_high", "dual_clip")
UNUSED = {
    "gspo": ("dual_clip",),
    "cispo": CLIPS,
    "rloo": ("advantage_scale", "ddof", "eps"),
    "bridge_release": (*CLIPS, "kl_estimator"),
}


@dataclasses.dataclass(frozen=True)
class UserTerm:
    """A user's loss of a token, with its settings.

    Attributes:
      own: what `policy.term` names.
      settings: its keyword arguments.
    """

    own: Plugin
    settings: Mapping[str, Any]

    def __call__(self, logp: Array, logp_old: Array, advantage: Array, mask: Array) -> Array:
        """The loss [B, G, T] of every token.

        Raises:
          PluginError: it raised while it was traced, or gave something else.
        """
        gave = self.own(logp, logp_old, advantage, mask, **self.settings)
        shape, dtype = getattr(gave, "shape", None), getattr(gave, "dtype", None)
        if shape != logp.shape or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(gave).__name__ if shape is None else f"{dtype}{list(shape)}"
            raise PluginError(
                f"{self.own.shown} returned {what}",
                f": it needs a loss for every token, [B, G, T] = {list(logp.shape)}, of floating "
                "point. Leave the mean to policy.objective, which reduces it.",
            )
        return gave

    def __str__(self) -> str:
        """Its name and settings."""
        return f"{name_of(self.own.value)} with {dict(self.settings)}"

    __repr__ = __str__


def user_term(config: Config) -> UserTerm | None:
    """The loss of a token that `policy.term` names; None for the objective's.

    Raises:
      InputError: see `plugin`.
    """
    own = plugin(config, "policy.term")
    return None if own is None else UserTerm(own, config.policy.term_settings)


def open_objective(policy: PolicyConfig, term: UserTerm | None = None) -> Objective:
    """The objective of a config: the preset's conventions, the variant's, then single settings.

    Args:
      policy: of the config.
      term: stands for the objective's own; None keeps that.

    Raises:
      InputError: a setting that the objective has no place for.
    """
    given = {_SETTINGS[key]: getattr(policy, key) for key in _SETTINGS}
    chosen = {name: value for name, value in given.items() if value != "auto"}
    if "dual_clip" in chosen:
        chosen["dual_clip"] = chosen["dual_clip"] or None
    if term is not None:
        chosen["term"] = term
    name = None if policy.objective == "auto" else policy.objective
    unused = set(UNUSED.get(policy.objective, ())) | ({*CLIPS} if term is not None else set())
    auto = resolved(make_objective(name, preset=policy.preset))
    for key in sorted(unused):
        value = getattr(policy, key)
        if value not in ("auto", auto[key]):  # a run's own config.toml has these
            other = f'policy.objective = "{policy.objective}"'
            if term is not None and key in CLIPS:
                other = f'policy.term = "{name_of(term.own.value)}"'
            raise InputError(
                f"policy.{key} = {_shown(value)}, {other}: that loss has no use for it. Leave "
                f"policy.{key} out, or choose another one."
            )
    return make_objective(name, preset=policy.preset, **chosen)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def preset_notes(policy: PolicyConfig) -> tuple[str, ...]:
    """A sentence on what an objective sets otherwise than the preset of another system does."""
    name, preset = policy.objective, policy.preset
    if name == "auto" or preset == PolicyConfig.preset:
        return ()
    own, system = VARIANTS[name], PRESETS[preset]
    # What the system itself leaves as it usually is, is none of its conventions.
    others = {
        field: (value, getattr(system, field))
        for field, value in own.items()
        if getattr(system, field) not in (value, getattr(Objective(), field))
    }
    if not others:
        return ()
    told = ", ".join(f"{field} = {_shown(mine)} instead of {_shown(theirs)}"
                     for field, (mine, theirs) in others.items())  # fmt: skip
    return (f'policy.objective = "{name}" comes over policy.preset = "{preset}": {told}.',)


def resolved(objective: Objective) -> dict[str, Any]:
    """The settings of [policy] that an objective stands for, for people to read."""
    values = {key: getattr(objective, name) for key, name in _SETTINGS.items()}
    values["dual_clip"] = values["dual_clip"] or 0.0
    if objective.kl == "none" or not objective.beta:  # no KL, or the term's own: none estimates it
        values["kl_estimator"] = "auto"
    return values


def in_words(objective: Objective) -> str:
    """An objective as people say it, with every number that counts in it.

    Example:
      >>> in_words(make_objective("dr_grpo")).split("; ")[:2]
      ['token ratios clipped to 1 − 0.2 … 1 + 0.2', 'advantage r − mean(r)']
    """
    clip = f"clipped to 1 − {objective.clip_low:g} … 1 + {objective.clip_high:g}"
    terms = {
        "clipped": f"token ratios {clip}",
        "sequence": f"ratios of whole completions {clip}",
        "cispo": f"log-probabilities weighted by ratios of at most {objective.max_ratio:g}",
        "bridge_release": f"BRIDGE's released loss, {objective.beta:g} × |Δ mean log π|",
    }
    term = terms[objective.term] if isinstance(objective.term, str) else f"loss {objective.term}"
    if objective.dual_clip and objective.term == "clipped":
        term += f", bad tokens' loss at most {objective.dual_clip:g} × |advantage|"
    scales = {
        "none": "r − mean(r)",
        "std": f"(r − mean(r)) / (std(r) + {objective.eps:g}), ddof {objective.ddof}",
        "mean": f"(r − mean(r)) / (|mean(r)| + {objective.eps:g})",
        "batch_std": f"(r − mean(r)) / (std of the batch + {objective.eps:g}), "
        f"ddof {objective.ddof}",
    }
    left_out = objective.baseline == "leave_one_out"
    advantage = "r − mean of the group's others" if left_out else scales[objective.scale]
    means = {
        "sequence": "mean over a completion's tokens, then over completions",
        "token": "mean over all tokens",
        "length": "summed over tokens, divided by completions × rollout.max_new_tokens",
    }
    parts = [term, f"advantage {advantage}", means[objective.reduction]]
    if objective.beta and objective.kl != "none":
        ratio = " × ratio" * objective.unbiased_kl
        bound = f", at most {objective.max_kl:g} a token" if objective.max_kl else ""
        parts.append(f"+ {objective.beta:g} × KL to the reference ({objective.kl}{ratio}{bound})")
    if objective.entropy_bonus:
        parts.append(f"− {objective.entropy_bonus:g} × entropy")
    if objective.max_log_ratio:
        parts.append(f"|log ratio| at most {objective.max_log_ratio:g}")
    if not objective.tempered:
        parts.append("log-probabilities at temperature 1")
    return "; ".join(parts)
