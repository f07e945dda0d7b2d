"""Divergence from a cache that kept only the K most likely tokens of the teacher."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from cotjax.core.divergences import Temperature, checked, kl, tempered
from cotjax.core.masking import fill_masked, widen

Tail = Literal["bucket", "renormalise", "drop"]


def topk_forward_kl(
    topk_logp: Float[Array, "*B T K"],
    topk_ids: Int[Array, "*B T K"],
    student_logits: Float[Array, "*B T V"],
    *,
    tail: Tail = "bucket",
    temperature: Temperature = 1.0,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """Forward KL from the K stored log-probabilities of a teacher, over a set S of ids.

        bucket       Σ_S p log(p/q) + p_∉S log(p_∉S / q_∉S),   p_∉S = 1 − Σ_S p
        renormalise  Σ_S p̂ log(p̂/q̂),   p̂ = p / Σ_S p,  q̂ = q / Σ_S q
        drop         Σ_S p log(p/q)

    `bucket` is the exact KL of the two distributions after all tokens outside S are merged into
    one, hence a lower bound of the full KL that is exact at K = V, and it leaves the student's own
    preferences among those tokens alone. `renormalise` forgets how sure the teacher was; `drop` can
    be negative and its minimum is not at the teacher.

    For several teachers with one set S, Σ_k w_k topk_forward_kl_k has exactly the gradient of the
    mixture's own under `bucket` and `drop`: the two differ by a number that does not depend on the
    student. With sets of their own, each teacher merges other tokens, and the sum is no mixture's.

    Args:
      topk_logp: [..., T, K] full-vocabulary log-probabilities at the teacher's temperature. −inf
        marks an unused slot, whose id may be anything.
      topk_ids: [..., T, K] ids, without repetition among the used slots.
      student_logits: [..., T, V].
      tail: `bucket`, `renormalise` or `drop`.
      temperature: τ > 0 of the student; the teacher's was applied when the cache was written.
      scale_by_temperature: multiplies by τ².
      mask: [..., T] True = counts; elsewhere value and gradient are 0 even for NaN inputs.

    Returns:
      [..., T] nats; ≥ 0 up to rounding, and 0 at student = teacher, except for `drop`. Stored
      probabilities that sum above 1, as rounded ones may, are divided by their sum.

    Example:
      >>> logp, ids = jnp.log(jnp.array([[0.6, 0.3]])), jnp.array([[2, 0]])
      >>> student = jnp.log(jnp.array([[0.3, 0.05, 0.6, 0.05]]))
      >>> bool(topk_forward_kl(logp, ids, student)[0] < 1e-6)  # 0.1 outside S on both sides
      True
      >>> topk_forward_kl(logp, ids, jnp.zeros((1, 4))).round(4)
      Array([0.419], dtype=float32)

    Raises:
      ValueError: an unknown tail, or a temperature ≤ 0.

    Source: the bucket is the tail of TRL's server distillation and of DistillKit's
    symmetric-uniform mode, `renormalise` Tunix, `drop` verl.
    """
    if mask is not None:
        topk_logp = fill_masked(topk_logp, mask[..., None])
        topk_ids = jnp.where(mask[..., None], topk_ids, 0)
        student_logits = fill_masked(student_logits, mask[..., None])
    scores = tempered(student_logits, temperature)
    chosen, norm, rest = topk_scores(topk_logp, topk_ids, scores)
    value = topk_value(topk_logp, chosen, norm, rest, tail)
    if scale_by_temperature:
        value = value * checked(temperature).astype(value.dtype) ** 2
    return value if mask is None else fill_masked(value, mask)


def topk_scores(
    topk_logp: Float[Array, "*B T K"],
    topk_ids: Int[Array, "*B T K"],
    scores: Float[Array, "*B T V"],
) -> tuple[Float[Array, "*B T K"], Float[Array, "*B T"], Float[Array, "*B T"]]:
    """What the loss needs of the student: its scores in S, log Σ exp over V and over V without S.

    The third is a sum over the other tokens and not log(1 − Σ_S q), which has no correct digit when
    the student is as sure as its teacher.
    """
    used = ~jnp.isneginf(topk_logp)
    chosen = jnp.take_along_axis(scores, jnp.where(used, topk_ids, 0), axis=-1)
    nowhere = scores.shape[-1]
    others = jnp.put_along_axis(
        scores, jnp.where(used, topk_ids, nowhere), -jnp.inf, axis=-1, inplace=False, mode="drop"
    )
    return chosen, jax.nn.logsumexp(scores, axis=-1), _logsumexp(others)


def topk_value(
    topk_logp: Float[Array, "*B T K"],
    chosen: Float[Array, "*B T K"],
    norm: Float[Array, "*B T"],
    rest: Float[Array, "*B T"],
    tail: Tail,
) -> Float[Array, "*B T"]:
    """The loss of `topk_forward_kl` from the three results of `topk_scores`."""
    logp = widen(topk_logp).astype(chosen.dtype)
    total = jnp.exp(logp).sum(axis=-1)
    logp = logp - jnp.log(jnp.maximum(total, 1))[..., None]
    if tail == "renormalise":
        used = ~jnp.isneginf(logp)
        norm = _logsumexp(jnp.where(used, chosen, -jnp.inf))
        logp = jnp.where(used, logp - _logsumexp(logp)[..., None], -jnp.inf)
    value = kl(logp, chosen - norm[..., None]).sum(axis=-1)
    if tail == "bucket":
        left = jnp.maximum(1 - total, 0)
        log_left = jnp.where(left > 0, jnp.log(jnp.where(left > 0, left, 1)), -jnp.inf)
        value = value + kl(log_left, rest - norm)
    elif tail not in ("renormalise", "drop"):
        raise ValueError(f"tail = {tail!r}: there are 'bucket', 'renormalise' and 'drop'.")
    return value


def largest(
    scores: Float[Array, "*B V"], k: int
) -> tuple[Float[Array, "*B K"], Int[Array, "*B K"]]:
    """The k largest scores and where they are: what `lax.top_k` gives, for a wide V in less time.

    The k largest lie in the k blocks whose maxima are largest, so that only those are searched.
    Equal scores are ranked by place, in blocks as in the whole.

    Args:
      scores: [..., V].
      k: at most V.

    Returns:
      [..., k] scores, the largest first, and their indices.

    Example:
      >>> largest(jnp.array([0.1, 0.4, 0.2, 0.4]), 3)[1]
      Array([1, 3, 2], dtype=int32)
    """
    width = scores.shape[-1]
    # Maxima and candidates are fewest in all where there are as many of one as of the other.
    block = 1 << round(math.log2(max(width / max(k, 1), 1)) / 2)
    count = -(-width // block)
    if count <= 2 * k:
        return lax.top_k(scores, k)
    lead = scores.shape[:-1]
    padding = [(0, 0)] * len(lead) + [(0, count * block - width)]
    blocks = jnp.pad(scores, padding, constant_values=-jnp.inf).reshape(*lead, count, block)
    which = jnp.sort(lax.top_k(blocks.max(axis=-1), k)[1], axis=-1)[..., None]
    candidates = jnp.take_along_axis(blocks, which, axis=-2).reshape(*lead, -1)
    values, place = lax.top_k(candidates, k)
    column = lax.broadcasted_iota(which.dtype, (*which.shape[:-1], block), which.ndim - 1)
    ids = (which * block + column).reshape(*lead, -1)
    return values, jnp.take_along_axis(ids, place, axis=-1)


def topk_and_rest(
    scores: Float[Array, "*B V"], k: int
) -> tuple[Float[Array, "*B K"], Int[Array, "*B K"], Float[Array, "*B"], Float[Array, "*B"]]:
    """The k largest log-probabilities, and two numbers about the others.

    Args:
      scores: [..., V] logits at temperature.
      k: at most V.

    Returns:
      log-probabilities [..., k] over the whole vocabulary, the largest first; ids [..., k]; the
      logarithm of the others' mass [...]; Σ p log p of the others [...]; all in nats. The mass is a
      sum over the others, with all its digits however small it is.

    Example:
      >>> logp, ids, log_rest, _ = topk_and_rest(jnp.log(jnp.array([0.2, 0.5, 0.3])), 1)
      >>> jnp.exp(logp).round(4), ids, jnp.exp(log_rest).round(4)
      (Array([0.5], dtype=float32), Array([1], dtype=int32), Array(0.5, dtype=float32))
    """
    # Without the barrier XLA makes a sort of the whole of a search whose results are cut.
    top, ids = lax.optimization_barrier(largest(scores, min(k + 1, scores.shape[-1])))
    second = top[..., k] if k < scores.shape[-1] else jnp.full_like(top[..., 0], -jnp.inf)
    top, ids = top[..., :k], ids[..., :k]
    # The others are what is at most `second`, their largest; what equals it and was chosen is
    # taken off again.
    base = jnp.where(jnp.isneginf(second), 0, second)
    gap = scores - base[..., None]
    share = jnp.where(scores <= second[..., None], jnp.exp(gap), 0)
    tied = (top == second[..., None]).astype(scores.dtype).sum(axis=-1)
    chosen = tied * jnp.exp(second - base)
    rest = share.sum(axis=-1) - chosen
    moment = jnp.where(share > 0, share * gap, 0).sum(axis=-1)
    peak = top[..., 0]
    norm = peak + jnp.log(jnp.exp(top - peak[..., None]).sum(axis=-1) + rest * jnp.exp(base - peak))
    empty = rest <= 0
    log_rest = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, rest)) + base - norm)
    plogp = jnp.exp(base - norm) * (moment + (base - norm) * rest)
    return top - norm[..., None], ids, log_rest, plogp


def _logsumexp(scores: Float[Array, "*B K"]) -> Float[Array, "*B"]:
    # −inf, without a NaN gradient, where every score is −inf.
    empty = jnp.isneginf(scores).all(axis=-1)
    value = jax.nn.logsumexp(jnp.where(empty[..., None], 0, scores), axis=-1)
    return jnp.where(empty, -jnp.inf, value)
