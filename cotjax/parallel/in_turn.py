"""Arrays that are gathered one after the other, so that only one of them takes memory twice.

A TPU's collective cannot write where a program's results lie: it fills temporaries, which are then
copied. Left to itself the compiler gathers all parameters first and copies them at the end, and a
device needs their memory twice. Here the next gather waits until the one before is copied.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

SMALL = 2**20  # bytes; what is smaller waits for nothing


def in_turn(leaves: Sequence[Array], places: Sequence[NamedSharding]) -> list[Array]:
    """The same numbers, bit for bit, each where it is to lie; for use under `jax.jit`.

    To wait is to need a number of the one before. The number is zero, which the compiler cannot
    know, and exclusive or with zero changes no bit, of a NaN neither; it takes the copy's place, so
    that nothing more passes through memory.

    Args:
      leaves: that are gathered, or otherwise change their places.
      places: where each is to lie.
    """
    found: list[Array] = []
    before = None
    for leaf, place in zip(leaves, places, strict=True):
        if leaf.size * leaf.dtype.itemsize < SMALL:
            found.append(leaf)
            continue
        zero = _zero(leaf if before is None else before)
        moved = jax.lax.with_sharding_constraint(_needing(leaf, zero), place)
        before = _needing(moved, zero)
        found.append(before)
    return found


def _bits(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))


def _zero(array: Array) -> Array:
    """A zero that needs the array: no number has 128 bits to count."""
    first = array[(0,) * array.ndim]
    return jax.lax.population_count(_bits(first)).astype(jnp.uint8) >> 7


def _needing(array: Array, zero: Array) -> Array:
    """The array, which is there no sooner than the zero."""
    bits = _bits(array)
    return jax.lax.bitcast_convert_type(bits ^ zero.astype(bits.dtype), array.dtype)
