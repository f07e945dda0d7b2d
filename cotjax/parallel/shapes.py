"""What stands for the arrays of a run before there are any: shapes with their shardings."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cotjax.interfaces import PromptBatch, TokenBatch
from cotjax.parallel.sharding import batched, placed_shape, replicated


def per_example(mesh: Mesh, *size: int, dtype: Any = np.float32) -> Any:
    """[B, …], as `sharding.shard` puts it on the mesh."""
    return placed_shape(batched(mesh), size, dtype)


def whole(mesh: Mesh, *size: int, dtype: Any = np.float32) -> Any:
    """As `sharding.replicate` puts it on the mesh."""
    return placed_shape(replicated(mesh), size, dtype)


def token_batch(mesh: Mesh, rows: int, length: int) -> TokenBatch:
    """[B, S] rows of packed examples."""
    integers = per_example(mesh, rows, length, dtype=np.int32)
    weight = per_example(mesh, rows, length)
    return TokenBatch(
        tokens=integers, targets=integers, weight=weight, segment=integers, positions=integers
    )


def prompt_batch(mesh: Mesh, prompts: int, width: int) -> PromptBatch:
    """[B, P] left-padded prompts."""
    return PromptBatch(
        tokens=per_example(mesh, prompts, width, dtype=np.int32),
        mask=per_example(mesh, prompts, width, dtype=np.bool_),
        ids=per_example(mesh, prompts, dtype=np.int32),
    )


def on_host(*size: int, dtype: Any = np.float32) -> Any:
    """An array of NumPy, which a program puts where it needs it."""
    return jax.ShapeDtypeStruct(size, dtype)


def key() -> Any:
    """A key of `jax.random`, wherever it is."""
    return jax.eval_shape(lambda: jax.random.key(0))


def whole_key(mesh: Mesh) -> Any:
    """A key as `sharding.replicate` puts it on the mesh."""
    return jax.ShapeDtypeStruct((), key().dtype, sharding=replicated(mesh))
