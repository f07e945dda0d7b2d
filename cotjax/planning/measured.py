"""This CPU as a chip: its rate of matrix products and of memory, measured in about a second."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cotjax.parallel.memory import host_free_bytes
from cotjax.planning.chips import CPU, Chip

_WIDTH = 1024  # of the product that is timed
_LENGTH = 2**24  # numbers that are read and written, 64 MiB


@functools.cache
def measured(devices: int) -> Chip:
    """A chip with an equal share of this machine.

    All devices of a CPU use the same cores and memory, so each has a part of what one alone
    reaches. What they exchange is copied in that memory.

    Args:
      devices: into how many the CPU is split.
    """
    square = jnp.ones((_WIDTH, _WIDTH), jnp.float32)
    product = _seconds(jax.jit(lambda x: x @ x), square)
    line = jnp.ones(_LENGTH, jnp.float32)
    copied = _seconds(jax.jit(lambda x: x + 1), line)
    rate = 2 * line.nbytes / copied / devices
    return Chip(
        name=CPU,
        label="this CPU, measured",
        platform=CPU,
        flops=2 * _WIDTH**3 / product / devices,
        hbm=host_free_bytes() // devices,
        hbm_rate=rate,
        link=rate / 2,
        network=rate / 2,
    )


def _seconds(function: Callable, argument: jax.Array, repeats: int = 5) -> float:
    """The shortest of some calls."""
    function(argument).block_until_ready()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        function(argument).block_until_ready()
        found.append(time.perf_counter() - began)
    return min(found)
