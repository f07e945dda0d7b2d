"""In which format a decoder keeps keys and values; int8 has a scale for each token and head.

    x ≈ values · scale,  scale = max_D |x| / 127

Nothing is multiplied out while decoding: the scale of a key multiplies its scores, the scale of a
value its weight.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_MOST = 127


class Kept(NamedTuple):
    """Keys [*N, D, S] or values [*N, S, D] of S tokens.

    Attributes:
      values: in the cache's format.
      scale: [*N, 1, S] float32 for int8; None otherwise.
    """

    values: Array
    scale: Float[Array, "*N 1 S"] | None = None

    def scaled(self, by_token: Float[Array, "*N R S"]) -> Float[Array, "*N R S"]:
        """Scores of keys, or weights of values, times the tokens' scales."""
        return by_token if self.scale is None else by_token * self.scale


def keep(x: Array, dtype: Any, *, axis: int) -> Kept:
    """Puts keys or values into the format of a cache.

    A NaN or an infinity makes the token's scale one, so that queries that attend to it get it too.

    Args:
      x: keys [*N, D, S] or values [*N, S, D].
      dtype: the format; None leaves it as computed.
      axis: of D: -2 for keys, -1 for values.
    """
    if dtype is None or jnp.dtype(dtype) != jnp.int8:
        return Kept(x if dtype is None else x.astype(dtype))
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=axis, keepdims=True) / _MOST
    values = jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return Kept(values, scale if axis == -2 else jnp.matrix_transpose(scale))


def write(block: Kept, token: Kept, at: Array, *, axis: int) -> Kept:
    """Puts one token (S = 1) at index `at` of a block; outside of the block nothing changes.

    Args:
      block: keys or values of S tokens.
      token: the new one, in the same format.
      at: a scalar.
      axis: of S in the values: -1 for keys, -2 for values.
    """
    values = _put(block.values, token.values, at, axis)
    if block.scale is None or token.scale is None:
        return Kept(values)
    return Kept(values, _put(block.scale, token.scale, at, -1))


def _put(block: Array, column: Array, at: Array, axis: int) -> Array:
    size = block.shape[axis]
    place = jnp.clip(at, 0, size - 1)
    old = jax.lax.dynamic_slice_in_dim(block, place, 1, axis)
    column = jnp.where((at >= 0) & (at < size), column, old)
    return jax.lax.dynamic_update_slice_in_dim(block, column, place, axis)
