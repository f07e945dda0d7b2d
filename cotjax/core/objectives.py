"""The table of objectives and of other systems' conventions, and the one loss that reads it.

A variant is a row of `OBJECTIVES`, a system a row of `PRESETS`; the words inside a row name
entries of `TERMS`, `REDUCTIONS`, `KL_ESTIMATORS` and `BASELINES`. `docs/numerics.md` states
where each number comes from.
"""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from cotjax.core.advantage import AdvantageScale, group_advantage, leave_one_out_advantage
from cotjax.core.grpo import (
    bridge_release,
    cispo_surrogate,
    clipped_surrogate,
    importance_ratio,
    sequence_ratio,
    sequence_surrogate,
)
from cotjax.core.logprobs import kl_k1, kl_k2, kl_k3
from cotjax.core.masking import (
    SumCount,
    fill_masked,
    length_sum_count,
    sequence_sum_count,
    token_sum_count,
    widen,
)

# A loss of tokens: (logp, logp_old, advantage, mask) to [*B, T].
TermFn = Callable[[Array, Array, Array, Array], Array]
Term = tuple[Array, Array, Array]  # loss, ratio, and where a clip holds; of every token


@dataclass(frozen=True)
class Objective:
    """Everything that distinguishes one policy-gradient objective from another.

    Attributes:
      term: key of `TERMS`, the loss of a token; or your own function, (logp, logp_old, advantage,
        mask), all [*B, T], to the loss [*B, T] of every token, to minimise.
      reduction: key of `REDUCTIONS`, how tokens become one number.
      baseline: key of `BASELINES`, how rewards become advantages.
      scale: what divides a centred reward, as in `group_advantage`.
      ddof: 1 divides a group's variance by G − 1, 0 by G.
      eps: added to that standard deviation.
      clip_low: how far below 1 the ratio still earns gradient.
      clip_high: how far above 1.
      dual_clip: bound c > 1 on the loss of bad tokens; None is off.
      max_ratio: CISPO's absolute bound on the weight.
      max_log_ratio: clamps log r to ± this; None is off.
      kl: key of `KL_ESTIMATORS`, the per-token distance to the reference.
      max_kl: clamps that distance to ± this; None is off.
      unbiased_kl: multiplies that distance by the ratio. The gradient of k3 alone is not that of
        KL(π ‖ π_ref); this product's is, in expectation over the tokens of π_old.
      beta: its coefficient.
      entropy_bonus: coefficient of the entropy, subtracted from the loss.
      tempered: True takes log-probabilities at the sampling temperature, False at 1.
    """

    term: "str | TermFn" = "clipped"
    reduction: str = "sequence"
    baseline: str = "group"
    scale: AdvantageScale = "std"
    ddof: int = 1
    eps: float = 1e-6
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    max_ratio: float = 5.0
    max_log_ratio: float | None = None
    kl: str = "k3"
    max_kl: float | None = None
    unbiased_kl: bool = False
    beta: float = 0.0
    entropy_bonus: float = 0.0
    tempered: bool = True


VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {"term": "clipped", "reduction": "sequence", "scale": "std"},
    "dr_grpo": {"term": "clipped", "reduction": "length", "scale": "none"},
    "dapo": {"term": "clipped", "reduction": "token", "scale": "std", "clip_high": 0.28},
    "gspo": {"term": "sequence", "reduction": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"term": "cispo", "reduction": "token", "max_ratio": 5.0},
    "rloo": {"term": "clipped", "reduction": "sequence", "baseline": "leave_one_out"},
    "bridge_release": {
        "term": "bridge_release", "reduction": "sequence", "kl": "none", "beta": 0.1, "eps": 1e-8,
        "tempered": False,
    },
}  # fmt: skip

OBJECTIVES = {name: Objective(**fields) for name, fields in VARIANTS.items()}

PRESETS = {
    "cotjax": Objective(beta=0.01),
    "trl": Objective(reduction="token", eps=1e-4, unbiased_kl=True),
    "verl": Objective(reduction="token", dual_clip=3.0, max_log_ratio=20.0, max_kl=10.0),
    "tunix": Objective(kl="k1", beta=0.04, max_log_ratio=20.0),
    "bridge": Objective(eps=1e-8, beta=0.1),
}


def make_objective(
    name: str | None = None, *, preset: str = "cotjax", **settings: Any
) -> Objective:
    """Picks an objective: a system's conventions, then a variant's, then single settings.

    Args:
      name: key of `OBJECTIVES`; None keeps the preset's own variant.
      preset: key of `PRESETS`.
      **settings: fields of `Objective` that override both.

    Returns:
      The objective.

    Example:
      >>> make_objective("dapo", preset="trl").clip_high, make_objective("dapo", preset="trl").eps
      (0.28, 0.0001)

    Raises:
      ValueError: an unknown name or preset.
      TypeError: an unknown setting.
    """
    variant: dict[str, Any] = {} if name is None else _entry(VARIANTS, name, "objective")
    return replace(_entry(PRESETS, preset, "preset"), **{**variant, **settings})


def policy_advantage(
    objective: Objective, reward: Float[Array, "B G"], mask: Bool[Array, "B G"] | None = None
) -> Float[Array, "B G"]:
    """Turns rewards into advantages by the objective's convention.

    Args:
      objective: names the baseline, scale, ddof and eps.
      reward: [B, G], reward units.
      mask: [B, G], False leaves a completion out; None counts all.

    Returns:
      [B, G] without gradient; see `group_advantage` and `leave_one_out_advantage`.

    Example:
      >>> policy_advantage(OBJECTIVES["dr_grpo"], jnp.array([[1.0, 0.0, 0.0, 0.0]]))
      Array([[ 0.75, -0.25, -0.25, -0.25]], dtype=float32)
    """
    return _entry(BASELINES, objective.baseline, "baseline")(objective, reward, mask)


def policy_loss(
    objective: Objective,
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"] | None,
    logp_ref: Float[Array, "*B T"] | None,
    advantage: Float[Array, "*#B #T"],
    mask: Bool[Array, "*B T"],
    *,
    max_length: int,
    entropy: Float[Array, "*B T"] | None = None,
    weight: Float[Array, "*B T"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, SumCount]]:
    """Computes an objective's loss as a sum and a count, with its metrics.

        Σ [w_t term_t + β kl_t − c H_t],  reduced as the objective says

    Args:
      objective: a value of `OBJECTIVES` or `PRESETS`, or from `make_objective`.
      logp: [*B, T] of the policy being trained.
      logp_old: [*B, T] of the policy that drew the tokens; None if that is the same policy.
      logp_ref: [*B, T] of the frozen reference; constant; None if β = 0 and nobody looks at it.
      advantage: [*B, 1] or [*B, T]; constant.
      mask: [*B, T], True = counts. Where False, every array may hold NaN.
      max_length: the longest completion that the run allows, in tokens (Dr. GRPO divides by it).
      entropy: [*B, T], needed for an entropy bonus, otherwise only reported.
      weight: [*B, T] factor of the policy term, as from `truncated_importance_weight`.

    Returns:
      (sum, count, metrics). Add sums and counts over micro-batches and devices, then divide
      once: `mean_from(sum, count)`. The metrics are such pairs too, over tokens and without
      gradient: `ratio`, `clip_fraction`, `kl_old` (k3 from the sampling policy) and, where their
      arrays were given, `kl` (k3 from the reference), `entropy` and `weight`.

    Example:
      >>> logp, mask = jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[True, True]])
      >>> total, count, metrics = policy_loss(
      ...     OBJECTIVES["grpo"], logp, None, None, jnp.array([[2.0]]), mask, max_length=2)
      >>> total / count, metrics["ratio"]
      (Array(-2., dtype=float32), (Array(2., dtype=float32), Array(2., dtype=float32)))

    Raises:
      ValueError: β ≠ 0 without logp_ref, an entropy bonus without entropy, or an unknown word in
        the objective; a term of your own that gives another shape.

    Source: the table of objectives; each term names its own paper.
    """
    if objective.beta and logp_ref is None:
        raise ValueError(f"objective.beta is {objective.beta}; needs logp_ref, or beta = 0.")
    if objective.entropy_bonus and entropy is None:
        raise ValueError("objective.entropy_bonus is set; needs entropy, or entropy_bonus = 0.")
    logp, advantage = _clean(logp, mask), _clean(advantage, mask)
    logp_old = lax.stop_gradient(logp) if logp_old is None else _clean(logp_old, mask)
    logp_ref = None if logp_ref is None else lax.stop_gradient(_clean(logp_ref, mask))

    named = objective.term if isinstance(objective.term, str) else None
    term = _own_term if named is None else _entry(TERMS, named, "term")
    loss, ratio, clipped = term(objective, logp, logp_old, logp_ref, advantage, mask)
    reported = {"ratio": ratio, "clip_fraction": clipped, "kl_old": kl_k3(logp, logp_old)}
    if weight is not None:
        weight = _clean(weight, mask)
        loss = loss * lax.stop_gradient(weight)
        reported["weight"] = weight
    if logp_ref is not None:
        estimate = _entry(KL_ESTIMATORS, objective.kl, "kl")(logp, logp_ref)
        if objective.max_kl is not None:
            estimate = jnp.clip(estimate, -objective.max_kl, objective.max_kl)
        if objective.unbiased_kl:
            estimate = estimate * ratio
        loss = loss + objective.beta * estimate
        reported["kl"] = kl_k3(logp, logp_ref)
    if entropy is not None:
        entropy = _clean(entropy, mask)
        loss = loss - objective.entropy_bonus * entropy
        reported["entropy"] = entropy
    total, count = _entry(REDUCTIONS, objective.reduction, "reduction")(loss, mask, max_length)
    metrics = {
        name: token_sum_count(lax.stop_gradient(value.astype(loss.dtype)), mask)
        for name, value in reported.items()
    }
    return total, count, metrics


def _clean(values: Array, mask: Array) -> Array:
    return fill_masked(widen(values), mask)


def _entry(table: Any, word: str, field: str) -> Any:
    if word not in table:
        raise ValueError(f"{field} is {word!r}; needs one of {', '.join(table)}.")
    return table[word]


def _clipped_term(
    objective: Objective,
    logp: Array,
    logp_old: Array,
    logp_ref: Array | None,
    advantage: Array,
    mask: Array,
) -> Term:
    ratio = importance_ratio(logp, logp_old, max_log_ratio=objective.max_log_ratio)
    loss = clipped_surrogate(
        logp,
        logp_old,
        advantage,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        dual_clip=objective.dual_clip,
        max_log_ratio=objective.max_log_ratio,
    )
    return loss, ratio, _outside(objective, ratio, advantage)


def _sequence_term(
    objective: Objective,
    logp: Array,
    logp_old: Array,
    logp_ref: Array | None,
    advantage: Array,
    mask: Array,
) -> Term:
    ratio = jnp.broadcast_to(sequence_ratio(logp, logp_old, mask), logp.shape)
    clips = {"clip_low": objective.clip_low, "clip_high": objective.clip_high}
    loss = sequence_surrogate(logp, logp_old, advantage, mask, **clips)
    return loss, ratio, _outside(objective, ratio, advantage)


def _cispo_term(
    objective: Objective,
    logp: Array,
    logp_old: Array,
    logp_ref: Array | None,
    advantage: Array,
    mask: Array,
) -> Term:
    ratio = importance_ratio(logp, logp_old)
    loss = cispo_surrogate(logp, logp_old, advantage, max_ratio=objective.max_ratio)
    return loss, ratio, ratio > objective.max_ratio


def _bridge_release_term(
    objective: Objective,
    logp: Array,
    logp_old: Array,
    logp_ref: Array | None,
    advantage: Array,
    mask: Array,
) -> Term:
    ratio = importance_ratio(logp, logp_old)
    logp_ref = lax.stop_gradient(logp) if logp_ref is None else logp_ref  # only if beta is 0
    loss = bridge_release(logp, logp_ref, advantage, mask, beta=objective.beta)
    return loss, ratio, jnp.zeros(ratio.shape, bool)


def _own_term(
    objective: Objective,
    logp: Array,
    logp_old: Array,
    logp_ref: Array | None,
    advantage: Array,
    mask: Array,
) -> Term:
    ratio = importance_ratio(logp, logp_old, max_log_ratio=objective.max_log_ratio)
    own: Any = objective.term
    loss = own(logp, logp_old, jnp.broadcast_to(advantage, logp.shape), mask)
    shape = getattr(loss, "shape", None)
    if shape != logp.shape:
        raise ValueError(
            f"objective.term gave the shape {shape}; needs a loss for every token, {logp.shape}."
        )
    return loss, ratio, jnp.zeros(ratio.shape, bool)


def _outside(objective: Objective, ratio: Array, advantage: Array) -> Array:
    # True where a clip is what holds: no gradient reaches the policy.
    below = (ratio < 1 - objective.clip_low) & (advantage < 0)
    above = (ratio > 1 + objective.clip_high) & (advantage > 0)
    bounded = False
    if objective.dual_clip is not None and objective.term == "clipped":
        bounded = (ratio > objective.dual_clip) & (advantage < 0)
    return below | above | bounded


TERMS = {
    "clipped": _clipped_term,
    "sequence": _sequence_term,
    "cispo": _cispo_term,
    "bridge_release": _bridge_release_term,
}

Reduction = Callable[[Array, Array, int], SumCount]
REDUCTIONS: dict[str, Reduction] = {
    "sequence": lambda values, mask, max_length: sequence_sum_count(values, mask),
    "token": lambda values, mask, max_length: token_sum_count(values, mask),
    "length": lambda values, mask, max_length: length_sum_count(
        values, mask, max_length=max_length
    ),
}

KL_ESTIMATORS: dict[str, Callable[[Array, Array], Array]] = {
    "k1": kl_k1,
    "k2": kl_k2,
    "k3": kl_k3,
    "none": lambda logp, logp_ref: jnp.zeros_like(logp),  # the term has its own distance
}

BASELINES: dict[str, Callable[[Objective, Array, Array | None], Array]] = {
    "group": lambda objective, reward, mask: group_advantage(
        reward, scale=objective.scale, ddof=objective.ddof, eps=objective.eps, mask=mask
    ),
    "leave_one_out": lambda objective, reward, mask: leave_one_out_advantage(reward, mask=mask),
}
