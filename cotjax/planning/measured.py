"""This CPU as a chip: its rates of matrix products, of memory and of its cache, measured.

What a program writes is read soon after. An array that the cache still holds then costs a fraction
of one that passed through memory, and a small model's arrays nearly all are such. The operating
system's word on the cache is no help: machines that are shared have a part of it. So arrays of
growing sizes are read and written in place, and the largest that is fast says what the cache holds.
"""

import functools
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from cotjax.parallel.memory import host_free_bytes
from cotjax.planning.chips import CPU, Chip

_WIDTH = 1024  # of the product that is timed
_SIZES = tuple(4**power * 2**18 for power in range(6))  # bytes of an array, 256 KiB to 256 MiB
_MOVED = 2**28  # bytes that a timed call reads at least, and writes
_FAST = 2  # times as fast as memory is a cache


@functools.cache
def measured(devices: int) -> Chip:
    """A chip with an equal share of this machine.

    All devices of a CPU use the same cores and memory, so each has a part of what one alone
    reaches. What they exchange is copied in that memory.

    Args:
      devices: into how many the CPU is split.
    """
    product = _seconds(jax.jit(lambda x: x @ x), jnp.eye(_WIDTH))
    rates = {size: _rate(size) for size in _SIZES}
    cache, rate = cache_of(rates), rates[_SIZES[-1]]
    return Chip(
        name=CPU,
        label="this CPU, measured",
        platform=CPU,
        flops=2 * _WIDTH**3 / product / devices,
        hbm=host_free_bytes() // devices,
        hbm_rate=rate / devices,
        link=rate / 2 / devices,
        network=rate / 2 / devices,
        # An operation reads one array and writes another: both are to be there.
        cache=cache // 2 // devices,
        cache_rate=rates.get(cache, rate) / devices,
    )


def cache_of(rates: Mapping[int, float]) -> int:
    """Bytes of the largest array that is much faster than the last one; 0 if none is.

    Args:
      rates: bytes per second, by the size of an array in bytes, from small to large.
    """
    *_, memory = rates.values()
    return max((size for size, rate in rates.items() if rate >= _FAST * memory), default=0)


def _rate(size: int) -> float:
    """Bytes per second that are read and written in place of an array of so many bytes."""
    turns = max(1, _MOVED // size)

    @functools.partial(jax.jit, donate_argnums=0)
    def pass_over(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, turns, lambda _, x: x + 1, x)

    return 2 * size * turns / _seconds(pass_over, jnp.ones(size // 4))


def _seconds(function: Callable, argument: jax.Array, repeats: int = 5) -> float:
    """The shortest of some calls, each on the last one's result."""
    argument = function(argument).block_until_ready()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        argument = function(argument).block_until_ready()
        found.append(time.perf_counter() - began)
    return min(found)
