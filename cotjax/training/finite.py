"""Arrays that hold a NaN or an infinity: counted where they lie, named, and refused.

An array of this process's CPU devices lies in its memory, where NumPy counts without a program that
would be compiled first.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cotjax.errors import NotFinite
from cotjax.interfaces import Program

SHOWN = 3  # arrays that an error names
_AT_ONCE = 2**18  # numbers that NumPy looks at: what it makes of them stays in a core's cache


@jax.jit
def _count_not_finite(leaf: Array) -> Array:
    return (~jnp.isfinite(leaf)).sum()


def named_leaves(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by where they stand in it, with points between the parts.

    What is an array itself is called "array".

    Example:
      >>> named_leaves({"embed": {"embedding": 1.0}, "blocks": [2.0]})
      {'blocks.0': 2.0, 'embed.embedding': 1.0}
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "array": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def not_finite(tree: Any) -> dict[str, int]:
    """How many numbers of each array are NaN or infinite; arrays without any are left out.

    Arrays that are split over processes are counted as a whole, so each process calls this.
    """
    leaves = {name: leaf for name, leaf in named_leaves(tree).items() if _holds_floats(leaf)}
    counts = jax.device_get(
        {
            name: (_count_on_host if _is_on_host(leaf) else _count_not_finite)(leaf)
            for name, leaf in leaves.items()
        }
    )
    return {name: int(count) for name, count in counts.items() if count}


def _is_on_host(leaf: Any) -> bool:
    """Whether an array, or what a shape stands for, lies in this process's memory."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return isinstance(leaf, np.ndarray)
    cpus = all(device.platform == "cpu" for device in sharding.device_set)
    return cpus and sharding.is_fully_addressable


def _count_on_host(leaf: Any) -> int:
    parts = [leaf]
    if isinstance(leaf, Array):  # of parts of which there are copies, one counts
        parts = [part.data for part in leaf.addressable_shards if part.replica_id == 0]
    return sum(map(_count_part, parts))


def _count_part(part: Any) -> int:
    flat = np.asarray(part).ravel("K")  # a view, in whatever order the numbers lie
    blocks = (flat[start : start + _AT_ONCE] for start in range(0, flat.size, _AT_ONCE))
    return sum(int((~np.isfinite(block)).sum()) for block in blocks)


def finite_programs(shapes: Any) -> Iterator[Program]:
    """What `not_finite` compiles for arrays of some shapes; nothing for those on the host."""
    seen: set[Any] = set()
    for leaf in jax.tree.leaves(shapes):
        kind = leaf.shape, leaf.dtype, leaf.sharding
        if _holds_floats(leaf) and not _is_on_host(leaf) and kind not in seen:
            seen.add(kind)
            yield Program("finite numbers", _count_not_finite, (leaf,))


def check_finite(tree: Any, what: str, fix: str) -> None:
    """Refuses arrays that hold a NaN or an infinity.

    Args:
      tree: of arrays.
      what: they are, as the error begins.
      fix: a sentence: what to do.

    Raises:
      NotFinite: names the arrays.
    """
    if found := not_finite(tree):
        raise NotFinite(f"{what}: {described(found, named_leaves(tree))}. {fix}")


def described(found: Mapping[str, int], leaves: Mapping[str, Any]) -> str:
    """What `not_finite` found, in words.

    Args:
      found: by name.
      leaves: the arrays by name, for their sizes.

    Example:
      >>> described({"w": 2}, {"w": jnp.zeros(8)})
      '2 of 8 numbers of w are NaN or infinite'
    """
    shown = [f"{count} of {leaves[name].size} numbers of {name}" for name, count in found.items()]
    if len(shown) > SHOWN:
        shown[SHOWN:] = [f"some of {len(shown) - SHOWN} more arrays"]
    return f"{', '.join(shown)} are NaN or infinite"


def _holds_floats(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
