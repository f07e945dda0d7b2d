"""From rewards to advantages: the group baseline and its rivals, each convention by name."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from cotjax.core.masking import masked_mean, masked_sum_count, mean_from, widen

AdvantageScale = Literal["std", "none", "mean", "batch_std"]


def group_advantage(
    reward: Float[Array, "B G"],
    *,
    scale: AdvantageScale = "std",
    ddof: int = 1,
    eps: float = 1e-6,
    mask: Bool[Array, "B G"] | None = None,
) -> Float[Array, "B G"]:
    """Centres each prompt's rewards on their group and scales them.

        A_bg = (r_bg − mean_g r_b) / (s_b + eps)

        s_b = std_g r_b (std), std_bg r (batch_std), |mean_g r_b| (mean); no division for none

    Args:
      reward: [B, G], one row per prompt, one column per completion; reward units.
      scale: `std` is GRPO; `none` is Dr. GRPO; `mean` is MaxRL, meant for rewards ≥ 0;
        `batch_std` takes one standard deviation over all rewards of the batch.
      ddof: 1 divides by G − 1 (TRL, verl, Tunix), 0 by G. [1, 0, 0, 0] gives 1.5000 or 1.7320.
      eps: added to s; TRL 1e-4, verl and Tunix 1e-6, BRIDGE 1e-8.
      mask: [B, G], False leaves a completion out of the statistics and gives it 0: for one that
        was truncated or could not be scored. Its reward may be NaN. None counts all.

    Returns:
      [B, G] without gradient. Rows have mean 0 over what counts; a row of equal rewards is
      exactly 0, and so is a row with fewer than two that count.

    Example:
      >>> group_advantage(jnp.array([[1.0, 0.0, 0.0, 0.0]])).round(4)
      Array([[ 1.5, -0.5, -0.5, -0.5]], dtype=float32)

    Raises:
      ValueError: G < 2; a group baseline needs two completions. Or an unknown scale or ddof.

    Source: Shao et al. 2024, arXiv:2402.03300 (std); Liu et al. 2025, arXiv:2503.20783 (none).
    """
    _check_group(reward)
    if ddof not in (0, 1):
        raise ValueError(f"group_advantage: ddof is {ddof}; needs 0 or 1.")
    if scale not in SCALES:
        raise ValueError(f"group_advantage: scale is {scale!r}; needs one of {', '.join(SCALES)}.")
    mask = jnp.ones(reward.shape, bool) if mask is None else mask
    shift, shifted = _shifted(reward, mask)
    centred = jnp.where(mask, shifted - masked_mean(shifted, mask, axis=1, keepdims=True), 0)
    spread = SCALES[scale](shift, shifted, mask, ddof)
    if spread is not None:  # with eps = 0 it may be 0, as all that it divides then is
        centred = mean_from(centred, jnp.broadcast_to(spread + eps, centred.shape))
    return lax.stop_gradient(centred)


def leave_one_out_advantage(
    reward: Float[Array, "B G"], *, mask: Bool[Array, "B G"] | None = None
) -> Float[Array, "B G"]:
    """Subtracts from each reward the mean of the others in its group.

        A_bg = r_bg − (1/(G−1)) Σ_{h≠g} r_bh

    Args:
      reward: [B, G], one row per prompt, one column per completion; reward units.
      mask: [B, G], False leaves a completion out and gives it 0. None counts all.

    Returns:
      [B, G] without gradient, in reward units: G/(G−1) times `group_advantage(scale="none")`.
      A row of equal rewards is exactly 0, and so is a row with fewer than two that count.

    Example:
      >>> leave_one_out_advantage(jnp.array([[1.0, 0.0, 0.5]]))
      Array([[ 0.75, -0.75,  0.  ]], dtype=float32)

    Raises:
      ValueError: G < 2; a group baseline needs two completions.

    Source: Ahmadian et al. 2024, arXiv:2402.14740 (RLOO).
    """
    _check_group(reward)
    mask = jnp.ones(reward.shape, bool) if mask is None else mask
    _, shifted = _shifted(reward, mask)
    total, count = masked_sum_count(shifted, mask, axis=1, keepdims=True)
    others = mean_from(total - shifted, jnp.broadcast_to(count - 1, shifted.shape))
    return lax.stop_gradient(jnp.where(mask & (count > 1), shifted - others, 0))


def informative_groups(
    reward: Float[Array, "B G"], *, mask: Bool[Array, "B G"] | None = None
) -> Bool[Array, " B"]:
    """Tells which prompts carry a signal: those whose completions earned different rewards.

        max_g r_bg > min_g r_bg

    Dynamic sampling drops the others and draws new prompts; the share of the others is the
    no-signal alarm.

    Args:
      reward: [B, G]; reward units.
      mask: [B, G], False leaves a completion out. None counts all.

    Returns:
      [B]; False where every advantage of the group is 0.

    Example:
      >>> informative_groups(jnp.array([[1.0, 1.0], [1.0, 0.0]]))
      Array([False,  True], dtype=bool)

    Source: Yu et al. 2025, arXiv:2503.14476 (DAPO's dynamic sampling).
    """
    mask = jnp.ones(reward.shape, bool) if mask is None else mask
    _, shifted = _shifted(reward, mask)
    return (shifted > 0).any(axis=1)


def overlong_penalty(
    length: Float[Array, "*S"], *, max_length: int, buffer: int
) -> Float[Array, "*S"]:
    """Punishes a completion for entering the last `buffer` tokens before the limit.

        clip((max_length − buffer − |y|) / buffer, −1, 0)

    Args:
      length: [*S] tokens of each completion.
      max_length: the length at which the penalty is full, in tokens.
      buffer: the width of the ramp, in tokens.

    Returns:
      [*S] in [−1, 0], to be added to the reward: 0 up to max_length − buffer, −1 from max_length.

    Example:
      >>> overlong_penalty(jnp.array([70.0, 80.0, 90.0, 120.0]), max_length=100, buffer=20)
      Array([ 0. ,  0. , -0.5, -1. ], dtype=float32)

    Raises:
      ValueError: buffer outside 1..max_length.

    Source: Yu et al. 2025, arXiv:2503.14476 (DAPO's soft overlong punishment).
    """
    if not 1 <= buffer <= max_length:
        raise ValueError(f"overlong_penalty: buffer is {buffer}; needs 1 to {max_length}.")
    return ((max_length - buffer - length) / buffer).clip(-1, 0)  # NumPy's arrays stay NumPy's


def _check_group(reward: Array) -> None:
    if reward.shape[1] < 2:
        raise ValueError(
            f"reward has G = {reward.shape[1]} completions per prompt; a group baseline needs "
            "at least 2. Raise rollout.group_size."
        )


def _shifted(reward: Array, mask: Array) -> tuple[Array, Array]:
    # Rewards above the group's smallest: equal rewards become exact zeros, where the rounding
    # of a mean would leave 1e-8 for eps to blow up.
    reward = widen(reward)
    shift = jnp.where(mask, reward, jnp.inf).min(axis=1, keepdims=True)
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    return shift, jnp.where(mask, reward - shift, 0)


def _std(values: Array, mask: Array, ddof: int, axis: int | tuple[int, ...]) -> Array:
    mean = masked_mean(values, mask, axis=axis, keepdims=True)
    total, count = masked_sum_count((values - mean) ** 2, mask, axis=axis, keepdims=True)
    return jnp.sqrt(mean_from(total, count - ddof))


# What divides the centred rewards, from (smallest, above it, mask, ddof); None leaves them.
Scale = Callable[[Array, Array, Array, int], Array | None]
SCALES: dict[AdvantageScale, Scale] = {
    "std": lambda shift, shifted, mask, ddof: _std(shifted, mask, ddof, axis=1),
    "none": lambda shift, shifted, mask, ddof: None,
    "mean": lambda shift, shifted, mask, ddof: jnp.abs(
        shift + masked_mean(shifted, mask, axis=1, keepdims=True)
    ),
    "batch_std": lambda shift, shifted, mask, ddof: _std(shift + shifted, mask, ddof, axis=(0, 1)),
}
