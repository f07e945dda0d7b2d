"""Which weights these are, in 16 letters: the same for every number format and every layout."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotjax.models.lora import split_adapter

SAMPLES = 4096  # numbers of each parameter that are looked at, evenly spread


def fingerprint(params: Any) -> str:
    """16 hexadecimal digits of a decoder's parameters, an adapter's left out.

    Numbers are rounded to bfloat16 first, so that the weights of a file have one fingerprint
    however a run holds them. They are read on the host: nothing is compiled.

    Args:
      params: nested dicts as `Policy.split` gives them; every array is on this process's devices.

    Example:
      >>> weights = {"norm": np.linspace(0, 1, 9, dtype=np.float32)}
      >>> fingerprint(weights) == fingerprint({"norm": weights["norm"].astype(jnp.bfloat16)})
      True
      >>> fingerprint(weights) == fingerprint({"norm": weights["norm"] * 2})
      False
    """
    digest = hashlib.sha256()
    _, base = split_adapter(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        values = np.asarray(leaf).reshape(-1)
        few = values[:: max(values.size // SAMPLES, 1)]
        digest.update(f"{name} {leaf.shape}".encode())
        digest.update(few.astype(np.float32).astype(jnp.bfloat16).tobytes())
    return digest.hexdigest()[:16]
