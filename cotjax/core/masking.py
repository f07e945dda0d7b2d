"""Masked sums and means: the only place of the package that divides by a mask count.

A loss over a global batch is a sum and a count. Micro-batches and devices add their sums and
their counts, and `mean_from` divides once, so that the value does not depend on the split.
Every reduction here is such a pair (`*_sum_count`) and its mean.
"""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

SumCount = tuple[Float[Array, ""], Float[Array, ""]]


def widen(values: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Casts half precision to float32, so that sums and exponentials keep their digits.

    Args:
      values: any shape, any floating dtype.

    Returns:
      The same shape: bfloat16 and float16 become float32, wider dtypes stay.

    Example:
      >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return values.astype(jnp.float32) if values.dtype.itemsize < 4 else values


def fill_masked(
    values: Float[Array, "*#S"], mask: Bool[Array, "*#S"], *, fill: float = 0.0
) -> Float[Array, "*S"]:
    """Replaces what does not count, before it enters a function whose gradient could be NaN.

        x_t if mask_t else fill

    Masking a result hides a NaN value but not a NaN gradient (0 · NaN); masking the input hides
    both. The losses of this package therefore mask their inputs first.

    Args:
      values: [*S], equal to `mask` up to axes of size 1.
      mask: [*S], True = keep.
      fill: the finite number that stands where the mask is False.

    Returns:
      [*S], with exactly zero gradient where the mask is False.

    Example:
      >>> fill_masked(jnp.array([1.0, jnp.nan]), jnp.array([True, False]))
      Array([1., 0.], dtype=float32)
    """
    return jnp.where(mask, values, jnp.asarray(fill, values.dtype))


def mean_from(total: Float[Array, "*S"], count: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Divides a sum by its count; an empty count gives 0.

        total / count,   0 where count ≤ 0

    Args:
      total: [*S] sums, already added over micro-batches and devices.
      count: [*S] their counts.

    Returns:
      [*S], finite, with a finite gradient, for every finite total.

    Example:
      >>> mean_from(jnp.array([6.0, 0.0]), jnp.array([4.0, 0.0]))
      Array([1.5, 0. ], dtype=float32)
    """
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0)


def masked_sum_count(
    values: Float[Array, "*#S"],
    mask: Bool[Array, "*#S"],
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Adds the values that count and counts them.

        (Σ_t m_t x_t, Σ_t m_t)

    Args:
      values: [*S]; masked values may be NaN or infinite.
      mask: [*S], True = counts. Axes of size 1 broadcast, and a broadcast entry counts each time.
      axis: the axis or axes to reduce; None reduces all of them.
      keepdims: keeps the reduced axes with size 1.

    Returns:
      The sum and the count, both float32 (or wider), of the reduced shape.

    Example:
      >>> masked_sum_count(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False]))
      (Array(3., dtype=float32), Array(2., dtype=float32))
    """
    kept = fill_masked(widen(values), mask)
    counted = jnp.broadcast_to(mask, kept.shape)
    total = kept.sum(axis=axis, keepdims=keepdims)
    return total, counted.sum(axis=axis, keepdims=keepdims).astype(total.dtype)


def masked_mean(
    values: Float[Array, "*#S"],
    mask: Bool[Array, "*#S"],
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """Averages the values that count.

        Σ_t m_t x_t / Σ_t m_t

    Args:
      values: [*S]; masked values may be NaN or infinite.
      mask: [*S], True = counts. Axes of size 1 broadcast.
      axis: the axis or axes to reduce; None reduces all of them.
      keepdims: keeps the reduced axes with size 1.

    Returns:
      The mean, float32 (or wider). An empty mask gives 0 with zero gradient.

    Example:
      >>> masked_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False]))
      Array(1.5, dtype=float32)
    """
    return mean_from(*masked_sum_count(values, mask, axis=axis, keepdims=keepdims))


def sequence_sum_count(values: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> SumCount:
    """Adds the token means of the sequences and counts the sequences.

        (Σ_i (1/|m_i|) Σ_t m_it x_it,  #{i : |m_i| > 0})

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.

    Returns:
      Two scalars. A sequence without a counted token adds to neither, so rows that only pad a
      batch change nothing (verl's convention; TRL counts such rows as zeros).

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> sequence_sum_count(values, jnp.array([[True, True], [True, False]]))
      (Array(7., dtype=float32), Array(2., dtype=float32))

    Source: Shao et al. 2024, arXiv:2402.03300 (GRPO's reduction).
    """
    means = masked_mean(values, mask, axis=-1)
    return means.sum(), mask.any(axis=-1).sum().astype(means.dtype)


def token_sum_count(values: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> SumCount:
    """Adds the values of all counted tokens and counts the tokens.

        (Σ_i Σ_t m_it x_it,  Σ_i |m_i|)

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.

    Returns:
      Two scalars.

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> token_sum_count(values, jnp.array([[True, True], [True, False]]))
      (Array(9., dtype=float32), Array(3., dtype=float32))

    Source: Yu et al. 2025, arXiv:2503.14476 (DAPO's reduction).
    """
    return masked_sum_count(values, mask)


def length_sum_count(
    values: Float[Array, "*B T"], mask: Bool[Array, "*B T"], *, max_length: int
) -> SumCount:
    """Adds the values of all counted tokens and counts the tokens there could have been.

        (Σ_i Σ_t m_it x_it,  max_length · #{i : |m_i| > 0})

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.
      max_length: the longest completion that the run allows, in tokens: a constant of the run,
        not the T of this batch, or the loss would depend on how the batch is split.

    Returns:
      Two scalars. A sequence without a counted token adds to neither.

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> length_sum_count(values, jnp.array([[True, True], [True, False]]), max_length=4)
      (Array(9., dtype=float32), Array(8., dtype=float32))

    Source: Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO's reduction).
    """
    total, _ = masked_sum_count(values, mask)
    return total, mask.any(axis=-1).sum().astype(total.dtype) * max_length


def sequence_mean(values: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> Float[Array, ""]:
    """Averages over the tokens of each sequence, then over the sequences: all sequences equal.

        (1/n) Σ_i (1/|m_i|) Σ_t m_it x_it,   n = #{i : |m_i| > 0}

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.

    Returns:
      A scalar; 0 if nothing counts.

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> sequence_mean(values, jnp.array([[True, True], [True, False]]))
      Array(3.5, dtype=float32)

    Source: Shao et al. 2024, arXiv:2402.03300 (GRPO's reduction).
    """
    return mean_from(*sequence_sum_count(values, mask))


def token_mean(values: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> Float[Array, ""]:
    """Averages over all counted tokens: all tokens equal, long sequences weigh more.

        Σ_i Σ_t m_it x_it / Σ_i |m_i|

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.

    Returns:
      A scalar; 0 if nothing counts.

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> token_mean(values, jnp.array([[True, True], [True, False]]))
      Array(3., dtype=float32)

    Source: Yu et al. 2025, arXiv:2503.14476 (DAPO's reduction).
    """
    return mean_from(*token_sum_count(values, mask))


def length_mean(
    values: Float[Array, "*B T"], mask: Bool[Array, "*B T"], *, max_length: int
) -> Float[Array, ""]:
    """Divides the sum over tokens by a constant length: no sequence is favoured for its length.

        Σ_i Σ_t m_it x_it / (n · max_length),   n = #{i : |m_i| > 0}

    Args:
      values: [*B, T] per-token values; masked ones may be NaN or infinite.
      mask: [*B, T], True = counts.
      max_length: the longest completion that the run allows, in tokens.

    Returns:
      A scalar; 0 if nothing counts.

    Example:
      >>> values = jnp.array([[1.0, 3.0], [5.0, 9.0]])
      >>> length_mean(values, jnp.array([[True, True], [True, False]]), max_length=4)
      Array(1.125, dtype=float32)

    Source: Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO's reduction).
    """
    return mean_from(*length_sum_count(values, mask, max_length=max_length))
