"""This CPU as a chip: its rates of matrix products and of what stands between them, measured.

Few operations of a program only copy. What stands between products has an exponential or a root for
each number, which cost a CPU's cores more than its memory does: so the rate of memory is that of
x · sigmoid(x). It is written in place, as a program writes where it wrote before; pages of memory
that the system gives anew would take several times as long.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cotjax.parallel.memory import host_free_bytes
from cotjax.planning.chips import CPU, Chip

_WIDTH = 1024  # of the product that is timed
_LENGTH = 2**22  # numbers that are read and written, 16 MiB: an activation of a small model
_TURNS = 8  # over them in a timed call


@functools.cache
def measured(devices: int) -> Chip:
    """A chip with an equal share of this machine, in about a second.

    All devices of a CPU use the same cores and memory, so each has a part of what one alone
    reaches. What they exchange is copied in that memory.

    Args:
      devices: into how many the CPU is split.
    """
    product = _seconds(jax.jit(lambda x: x @ x), jnp.eye(_WIDTH))
    line = jnp.ones(_LENGTH, jnp.float32)
    rate = 2 * line.nbytes * _TURNS / _seconds(_pass_over, line) / devices
    return Chip(
        name=CPU,
        label="this CPU, measured",
        platform=CPU,
        flops=2 * _WIDTH**3 / product / devices,
        hbm=host_free_bytes() // devices,
        hbm_rate=rate,
        link=rate / 2,
        network=rate / 2,
        overlaps=False,
    )


@functools.partial(jax.jit, donate_argnums=0)
def _pass_over(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, _TURNS, lambda _, x: jax.nn.silu(x), x)


def _seconds(function: Callable, argument: jax.Array, repeats: int = 5) -> float:
    """The median of some calls, each on the last one's result."""
    argument = function(argument).block_until_ready()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        argument = function(argument).block_until_ready()
        found.append(time.perf_counter() - began)
    return sorted(found)[repeats // 2]
