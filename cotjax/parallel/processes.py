"""Several processes of one run: how they meet, which rows each feeds, what they exchange.

All run the same program on the same config, so what is drawn and decided on a host is the same in
each. The process whose devices hold rows of a batch feeds them and judges their texts; the
first process writes the files.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cotjax.errors import InputError
from cotjax.parallel.launchers import find_launch
from cotjax.parallel.sharding import batched
from cotjax.parallel.together import HEARTBEAT


def join() -> None:
    """Meets the other processes, if a launcher's environment announces any, and says so.

    `find_launch` says who announces them: Slurm, Open MPI, GKE, TPU VMs, or JAX_COORDINATOR_ADDRESS
    (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call before JAX has been used.

    Raises:
      InputError: they do not agree, or JAX cannot find the first process.
    """
    if jax.distributed.is_initialized():
        return
    launch = find_launch()
    if launch is None:
        return
    try:
        jax.distributed.initialize(
            *(launch.address, launch.count, launch.number), heartbeat_timeout_seconds=HEARTBEAT
        )
    except ValueError as error:  # something that JAX could not find
        raise InputError(
            f"{launch.by}: JAX cannot join {launch.count} processes ({error}). Set "
            "JAX_COORDINATOR_ADDRESS=HOST:8476, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error
    if jax.process_count() != launch.count:
        raise InputError(
            f"{launch.by} says that there are {launch.count} processes, and the devices belong to "
            f"{jax.process_count()}. Start one on each host of the slice."
        )
    print(
        f"Process {jax.process_index()} of {launch.count} ({launch.by}): "
        f"{jax.local_device_count()} of {jax.device_count()} devices.",
        file=sys.stderr,
        flush=True,
    )


def is_first() -> bool:
    """Whether this process writes files and prints; does not use JAX if it is alone."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait(name: str) -> None:
    """Waits for every process; does not use JAX if this one is alone."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def from_first(text: str) -> str:
    """What the first process says, in every one; does not use JAX if this one is alone."""
    return gather(text)[0] if jax.distributed.is_initialized() else text


def fed_rows(mesh: Mesh, size: int) -> np.ndarray:
    """The rows [n] of a batch of `size` that this process's devices hold, ascending."""
    places = batched(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[place] for place in places if place]))


def owners(mesh: Mesh, size: int) -> np.ndarray:
    """The process [size] that owns each row of a batch: the first of those that hold it."""
    owner = np.full(size, jax.process_count())
    for device, place in batched(mesh).devices_indices_map((size,)).items():
        if place:
            owner[place] = np.minimum(owner[place], device.process_index)
    return owner


def assemble(mesh: Mesh, rows: Any, size: int) -> Any:
    """Global [B, …] arrays of which each process gives the rows that it feeds.

    Args:
      mesh: the devices.
      rows: [n, …] leaves, the rows of `fed_rows`.
      size: B.
    """
    sharding = batched(mesh)

    def one(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(sharding, leaf, (size, *leaf.shape[1:]))

    return jax.tree.map(one, rows)


def fetch(tree: Any) -> Any:
    """Whole arrays on every host, whatever devices hold them."""
    if jax.process_count() > 1:
        tree = multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


def gather(value: Any) -> list[Any]:
    """What each process gives, in order, on every host; of JSON's types."""
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(own)])).reshape(-1)
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few shapes to compile for
    padded[: len(own)] = own
    texts = multihost_utils.process_allgather(padded)
    return [json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)]
