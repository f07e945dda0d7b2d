"""One mesh, one axis so far: every device holds the model and a share of the batch.

Arrays are placed here and nowhere else; `jax.jit` carries the placement through a step, and what
crosses devices is one sum per gradient and one sum and count per metric.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.errors import InputError

_FORCED = "xla_force_host_platform_device_count"


def use_cpu_cores() -> None:
    """Lets a machine without accelerators share a batch over its cores, as devices do.

    Small matrix products leave cores idle; two devices of one core each do about 1.5 times the
    work of one device of two. Counts above 8 rarely divide a batch. Call before JAX has been
    used; a count that the environment sets (`JAX_NUM_CPU_DEVICES`, `XLA_FLAGS`) stands.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or _FORCED in os.environ.get("XLA_FLAGS", ""):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    power_of_two = 1 << (min(cores or 1, 8).bit_length() - 1)
    jax.config.update("jax_num_cpu_devices", power_of_two)


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
