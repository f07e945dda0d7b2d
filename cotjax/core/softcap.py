"""A soft cap on logits: where they are formed, before temperature and softmax."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

SoftCap = float | Float[Array, ""] | None


def soft_cap(logits: Float[Array, "*B V"], cap: SoftCap) -> Float[Array, "*B V"]:
    """Bounds logits smoothly.

        c · tanh(z / c)

    Args:
      logits: [*B, V]; any floating dtype.
      cap: c > 0; None is no cap. May be traced.

    Returns:
      [*B, V], between −c and c.

    Example:
      >>> soft_cap(jnp.array([0.0, 100.0]), 30.0).round(1)
      Array([ 0. , 29.9], dtype=float32)

    Source: Gemma Team 2024, arXiv:2408.00118 (Gemma 2).
    """
    if cap is None:
        return logits
    cap = jnp.asarray(cap, logits.dtype)
    return cap * jnp.tanh(logits / cap)


def soft_cap_slope(capped: Float[Array, "*B V"], cap: SoftCap) -> Float[Array, "*B V"] | float:
    """The derivative of `soft_cap` from its result: 1 − (capped / c)²."""
    if cap is None:
        return 1.0
    return 1 - (capped / jnp.asarray(cap, capped.dtype)) ** 2
