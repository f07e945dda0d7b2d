"""One mesh, one axis so far: every device holds the model and a share of the batch.

Arrays are placed here and nowhere else; `jax.jit` carries the placement through a step, and what
crosses devices is one sum per gradient and one sum and count per metric.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.errors import InputError


def make_mesh(data: int) -> Mesh:
    """A mesh of `data` devices; -1 takes all.

    Raises:
      InputError: more devices than there are.
    """
    devices = jax.devices()
    count = len(devices) if data == -1 else data
    if count > len(devices):
        raise InputError(
            f"mesh.data = {data}: this process sees {len(devices)} devices. "
            f"Set mesh.data <= {len(devices)}, or -1 for all."
        )
    return Mesh(np.asarray(devices[:count]), ("data",))


def check_divides(mesh: Mesh, size: int, key: str) -> None:
    """Refuses a batch that the devices cannot share equally.

    Raises:
      InputError: names the key, its value and the devices.
    """
    if size % mesh.size:
        fits = max(size // mesh.size, 1) * mesh.size
        raise InputError(
            f"{key} = {size}: {mesh.size} devices cannot share it equally. "
            f"Set {key} = {fits}, or mesh.data to a divisor of {size}."
        )


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of every leaf on every device."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard(mesh: Mesh, tree: Any) -> Any:
    """[B, …] leaves, B split over the devices."""
    return jax.device_put(tree, NamedSharding(mesh, P("data")))
