"""Policy-gradient terms: per-token losses to minimise, one function per published objective.

Shapes: log-probabilities are [*B, T] (in a run [B, G, T]); `advantage` is the same or has axes
of size 1, so a group's advantages enter as `advantage[..., None]`, [B, G, 1].
"""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from cotjax.core.masking import fill_masked, masked_mean, widen


def clipped_surrogate(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    advantage: Float[Array, "*#B #T"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    max_log_ratio: float | None = None,
) -> Float[Array, "*B T"]:
    """Gives PPO's clipped loss of each token.

        −min(r Â, clip(r, 1 − clip_low, 1 + clip_high) Â),   r = exp(log π − log π_old)

        dual clip, where Â < 0: at most −c Â

    Args:
      logp: [*B, T] of the policy being trained.
      logp_old: [*B, T] of the policy that drew the tokens; constant.
      advantage: [*B, 1] or [*B, T]; constant.
      clip_low: how far below 1 the ratio still earns gradient.
      clip_high: how far above 1; DAPO's "clip higher" is .28.
      dual_clip: c > 1 bounds the loss of bad tokens that became likely; None is off.
      max_log_ratio: clamps log r to ± this first (verl and Tunix 20); None is off.

    Returns:
      [*B, T] loss to minimise. On policy (logp = logp_old) it is −Â with gradient −Â.

    Example:
      >>> logp, logp_old = jnp.log(jnp.array([[0.9, 0.5, 0.25]])), jnp.log(jnp.full((1, 3), 0.5))
      >>> clipped_surrogate(logp, logp_old, jnp.array([[2.0]]), clip_high=0.5)
      Array([[-3., -2., -1.]], dtype=float32)

    Raises:
      ValueError: dual_clip ≤ 1.

    Source: Schulman et al. 2017, arXiv:1707.06347; dual clip: Ye et al. 2020, arXiv:1912.09729.
    """
    ratio = importance_ratio(logp, logp_old, max_log_ratio=max_log_ratio)
    return _clipped(ratio, advantage, clip_low, clip_high, dual_clip)


def sequence_surrogate(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    advantage: Float[Array, "*#B #T"],
    mask: Bool[Array, "*B T"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Array, "*B T"]:
    """Gives GSPO's clipped loss, one ratio for a whole sequence.

        −min(s Â, clip(s, 1 − clip_low, 1 + clip_high) Â),   s = exp(mean_t log r_t)

    Args:
      logp: [*B, T] of the policy being trained; may be NaN where masked.
      logp_old: [*B, T] of the policy that drew the tokens; constant.
      advantage: [*B, 1] or [*B, T]; constant.
      mask: [*B, T], True = counts.
      clip_low: below 1; the paper uses 3e-4.
      clip_high: above 1; the paper uses 4e-4.

    Returns:
      [*B, T] loss to minimise: the sequence's loss, repeated at each counted token, 0 elsewhere.
      `sequence_mean` of it is GSPO. For one-token sequences it equals `clipped_surrogate`.

    Example:
      >>> logp, mask = jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[True, True]])
      >>> sequence_surrogate(logp, logp, jnp.array([[1.0]]), mask, clip_low=3e-4, clip_high=4e-4)
      Array([[-1., -1.]], dtype=float32)

    Source: Zheng et al. 2025, arXiv:2507.18071 (GSPO).
    """
    ratio = sequence_ratio(logp, logp_old, mask)
    return fill_masked(_clipped(ratio, advantage, clip_low, clip_high, None), mask)


def cispo_surrogate(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    advantage: Float[Array, "*#B #T"],
    *,
    max_ratio: float,
) -> Float[Array, "*B T"]:
    """Gives CISPO's loss: every token keeps its gradient, only its weight is truncated.

        −sg(min(r, max_ratio)) Â log π,   r = exp(log π − log π_old)

    Args:
      logp: [*B, T] of the policy being trained.
      logp_old: [*B, T] of the policy that drew the tokens; constant.
      advantage: [*B, 1] or [*B, T]; constant.
      max_ratio: the largest weight, an absolute bound (5 is usual), not a distance from 1.

    Returns:
      [*B, T] loss to minimise; its gradient is −min(r, max_ratio) Â.

    Example:
      >>> logp, logp_old = jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.05]]))
      >>> cispo_surrogate(logp, logp_old, jnp.array([[1.0]]), max_ratio=5.0).round(4)
      Array([[3.4657]], dtype=float32)

    Source: MiniMax 2025, arXiv:2506.13585 (CISPO); Khatri et al. 2025, arXiv:2510.13786, use 5.
    """
    weight = lax.stop_gradient(jnp.minimum(importance_ratio(logp, logp_old), max_ratio))
    return -weight * lax.stop_gradient(widen(advantage)) * widen(logp)


def truncated_importance_weight(
    logp_old: Float[Array, "*B T"], logp_sampler: Float[Array, "*B T"], *, cap: float
) -> Float[Array, "*B T"]:
    """Corrects for a sampler whose numbers differ from the trainer's.

        min(exp(log π_old − log π_sampler), cap)

    Args:
      logp_old: [*B, T] of the drawn tokens, computed by the trainer.
      logp_sampler: [*B, T] of the same tokens, reported by the sampler.
      cap: the largest weight; 2 is usual.

    Returns:
      [*B, T] in [0, cap], without gradient, to multiply a policy loss.

    Example:
      >>> trained, sampled = jnp.log(jnp.array([[0.5, 0.9]])), jnp.log(jnp.array([[0.4, 0.1]]))
      >>> truncated_importance_weight(trained, sampled, cap=2.0).round(4)
      Array([[1.25, 2.  ]], dtype=float32)

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training" (TIS).
    """
    return lax.stop_gradient(jnp.minimum(importance_ratio(logp_old, logp_sampler), cap))


def bridge_release(
    logp: Float[Array, "*B T"],
    logp_ref: Float[Array, "*B T"],
    advantage: Float[Array, "*#B #T"],
    mask: Bool[Array, "*B T"],
    *,
    beta: float,
) -> Float[Array, "*B T"]:
    """Gives the loss that BRIDGE's released scripts optimise, literally: no ratio and no clip.

        −Â mean_t log π_t + β |mean_t log π_t − mean_t log π_ref,t|

    Args:
      logp: [*B, T] of the policy being trained; may be NaN where masked.
      logp_ref: [*B, T] of the frozen reference.
      advantage: [*B, 1]: one number per sequence; constant.
      mask: [*B, T], True = counts.
      beta: weight of the distance to the reference; the release uses 0.1.

    Returns:
      [*B, T] loss to minimise: the sequence's loss, repeated at each counted token, 0 elsewhere.
      `sequence_mean` of it is the release's loss. At logp = logp_ref the distance has gradient 0.

    Example:
      >>> logp, logp_ref = jnp.array([[-1.0, -3.0]]), jnp.array([[-1.0, -2.0]])
      >>> bridge_release(logp, logp_ref, jnp.array([[1.0]]), jnp.array([[True, True]]), beta=0.1)
      Array([[2.05, 2.05]], dtype=float32)

    Source: arXiv:2602.17686; code Applied-Machine-Learning-Lab/SDM2026_BRIDGE at 86b5330.
    """
    mean = masked_mean(logp, mask, axis=-1, keepdims=True)
    mean_ref = lax.stop_gradient(masked_mean(logp_ref, mask, axis=-1, keepdims=True))
    gap = mean - mean_ref
    distance = gap * lax.stop_gradient(jnp.sign(gap))  # JAX gives |x| the slope 1 at 0
    return fill_masked(-lax.stop_gradient(widen(advantage)) * mean + beta * distance, mask)


def importance_ratio(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    *,
    max_log_ratio: float | None = None,
) -> Float[Array, "*B T"]:
    """Gives how much likelier each token has become.

        exp(log π − log π_old)

    Args:
      logp: [*B, T] of the policy being trained.
      logp_old: [*B, T] of the policy that drew the tokens; constant.
      max_log_ratio: clamps the exponent to ± this; None is off.

    Returns:
      [*B, T] ≥ 0, float32 (or wider); exactly 1 on policy.

    Example:
      >>> importance_ratio(jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]])))
      Array([[2.]], dtype=float32)

    Source: Schulman et al. 2017, arXiv:1707.06347.
    """
    log_ratio = widen(logp) - lax.stop_gradient(widen(logp_old))
    if max_log_ratio is not None:
        log_ratio = jnp.clip(log_ratio, -max_log_ratio, max_log_ratio)
    return jnp.exp(log_ratio)


def sequence_ratio(
    logp: Float[Array, "*B T"], logp_old: Float[Array, "*B T"], mask: Bool[Array, "*B T"]
) -> Float[Array, "*B 1"]:
    """Gives how much likelier each sequence has become, per token: a geometric mean.

        exp(mean_t (log π_t − log π_old,t))

    Args:
      logp: [*B, T] of the policy being trained; may be NaN where masked.
      logp_old: [*B, T] of the policy that drew the tokens; constant.
      mask: [*B, T], True = counts.

    Returns:
      [*B, 1] ≥ 0; 1 on policy and for an empty sequence.

    Example:
      >>> logp, logp_old = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.125, 0.5]]))
      >>> sequence_ratio(logp, logp_old, jnp.array([[True, True]])).round(4)
      Array([[2.]], dtype=float32)

    Source: Zheng et al. 2025, arXiv:2507.18071 (GSPO).
    """
    log_ratio = widen(logp) - lax.stop_gradient(widen(logp_old))
    return jnp.exp(masked_mean(log_ratio, mask, axis=-1, keepdims=True))


def _clipped(
    ratio: Array, advantage: Array, clip_low: float, clip_high: float, dual_clip: float | None
) -> Array:
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip is {dual_clip}; needs to be above 1, or None.")
    advantage = lax.stop_gradient(widen(advantage))
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = jnp.maximum(-ratio * advantage, -clipped * advantage)
    if dual_clip is None:
        return loss
    return jnp.where(advantage < 0, jnp.minimum(loss, -dual_clip * advantage), loss)
