"""The divergences before their sum over the vocabulary: one term per entry, from log-probabilities.

p is the teacher, q the student. Every term is finite for every pair of distributions, in value and
in slope: an entry with p = 0 adds nothing to an expectation under p, and a probability of 0 where a
logarithm is needed counts as the smallest normal float32, 1.2e-38, which costs 87 nats. Dense and
chunked divergences share these functions, so they cannot drift apart.
"""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from cotjax.core.masking import fill_masked, widen

LOG_TINY = math.log(np.finfo(np.float32).tiny)

Kind = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_forward_kl",
    "skew_reverse_kl",
    "total_variation",
]
Temperature = float | Float[Array, ""]
LogProbs = Float[Array, "*B V"]
Terms = Callable[[LogProbs, LogProbs], LogProbs]


def kl(logp: LogProbs, logq: LogProbs) -> LogProbs:
    """Terms p (log p − log q) of KL(p ‖ q)."""
    logq = jnp.where(jnp.isneginf(logq), LOG_TINY, logq)
    gap = jnp.where(jnp.isneginf(logp), 0.0, logp - logq)
    return jnp.exp(logp) * gap


def kl_to_mixture(logp: LogProbs, logq: LogProbs, alpha: float) -> LogProbs:
    """Terms p (log p − log(αp + (1−α)q)) of the skew KL, 0 ≤ α < 1.

    log(αp + (1−α)q) − log p = log(α + (1−α) e^(log q − log p)), so equal distributions cancel
    before any rounding, and the mixture cannot underflow.
    """
    if alpha == 0:
        return kl(logp, logq)
    gap = jnp.where(jnp.isneginf(logp), 0.0, logq - logp)
    return -jnp.exp(logp) * jnp.logaddexp(math.log(alpha), math.log1p(-alpha) + gap)


def jensen_shannon(logp: LogProbs, logq: LogProbs, beta: float) -> LogProbs:
    """Terms of β KL(p ‖ M) + (1−β) KL(q ‖ M), M = βp + (1−β)q; of the plain KLs at β = 0, 1."""
    if beta == 0:
        return kl(logp, logq)
    if beta == 1:
        return kl(logq, logp)
    to_teacher = beta * kl_to_mixture(logp, logq, beta)
    return to_teacher + (1 - beta) * kl_to_mixture(logq, logp, 1 - beta)


def total_variation(logp: LogProbs, logq: LogProbs) -> LogProbs:
    """½ |p − q|."""
    return 0.5 * jnp.abs(jnp.exp(logp) - jnp.exp(logq))


def terms_of(kind: Kind, *, beta: float = 0.5, alpha: float = 0.1) -> Terms:
    """The terms of the divergence called `kind`, as a function of (log p, log q).

    Args:
      kind: one of the six names in `Kind`.
      beta: weight of the teacher in `jensen_shannon`, in [0, 1]; the others ignore it.
      alpha: skew of `skew_forward_kl` and `skew_reverse_kl`, in [0, 1); the others ignore it.

    Returns:
      A function of two arrays [..., V] of log-probabilities to terms [..., V].

    Raises:
      ValueError: an unknown kind, or beta or alpha outside its range.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta = {beta}: the weight of the teacher lies in [0, 1].")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha = {alpha}: the skew lies in [0, 1).")
    table: dict[str, Terms] = {
        "forward_kl": kl,
        "reverse_kl": lambda logp, logq: kl(logq, logp),
        "jensen_shannon": functools.partial(jensen_shannon, beta=beta),
        "skew_forward_kl": functools.partial(kl_to_mixture, alpha=alpha),
        "skew_reverse_kl": lambda logp, logq: kl_to_mixture(logq, logp, alpha),
        "total_variation": total_variation,
    }
    if kind not in table:
        raise ValueError(f"kind = {kind!r}: there are {', '.join(table)}.")
    return table[kind]


def checked(temperature: Temperature) -> Float[Array, ""]:
    """The temperature as an array; a ValueError if it is a number and not above 0."""
    if isinstance(temperature, float | int) and temperature <= 0:
        raise ValueError(f"temperature = {temperature}: it divides the logits, so it must be > 0.")
    return jnp.asarray(temperature, jnp.result_type(float))


def tempered(logits: Float[Array, "*B"], temperature: Temperature) -> Float[Array, "*B"]:
    """Divides by τ in at least float32."""
    logits = widen(logits)
    return logits / checked(temperature).astype(logits.dtype)


def _log_probs(logits: Array, temperature: Temperature, mask: Array | None) -> Array:
    # The mask replaces the input of the softmax: on its output alone, `where` would leave the NaN
    # slope of a NaN logit to be multiplied by 0.
    if mask is not None:
        logits = fill_masked(logits, mask[..., None])
    return jax.nn.log_softmax(tempered(logits, temperature), axis=-1)


def divergence(
    kind: Kind,
    teacher_logits: Float[Array, "*B T V"],
    student_logits: Float[Array, "*B T V"],
    *,
    beta: float = 0.5,
    alpha: float = 0.1,
    temperature: Temperature = 1.0,
    teacher_temperature: Temperature | None = None,
    scale_by_temperature: bool = False,
    mask: Bool[Array, "*B T"] | None = None,
) -> Float[Array, "*B T"]:
    """The divergence called `kind`: what the six functions below compute, chosen by name.

    Args:
      kind: `forward_kl`, `reverse_kl`, `jensen_shannon`, `skew_forward_kl`, `skew_reverse_kl` or
        `total_variation`.
      teacher_logits: [..., T, V].
      student_logits: [..., T, V].
      beta: of `jensen_shannon`; the others ignore it.
      alpha: of the two skew divergences; the others ignore it.
      temperature: see `forward_kl`.
      teacher_temperature: see `forward_kl`.
      scale_by_temperature: see `forward_kl`.
      mask: see `forward_kl`.

    Returns:
      [..., T] nats.

    Raises:
      ValueError: an unknown kind, logits of different width, or a beta, alpha or temperature
        outside its range.
    """
    widths = teacher_logits.shape[-1], student_logits.shape[-1]
    if widths[0] != widths[1]:
        raise ValueError(
            f"the teacher has {widths[0]} logits, the student {widths[1]}: cut both to the common "
            "vocabulary with common_vocabulary."
        )
    if teacher_temperature is None:
        teacher_temperature = temperature
    logp = _log_probs(teacher_logits, teacher_temperature, mask)
    logq = _log_probs(student_logits, temperature, mask)
    value = terms_of(kind, beta=beta, alpha=alpha)(logp, logq).sum(axis=-1)
    if scale_by_temperature:
        value = value * checked(temperature).astype(value.dtype) ** 2
    return value if mask is None else jnp.where(mask, value, 0)
