"""The devices of a run, in one mesh of four axes.

    replica  slices that only a data center's network joins: each holds a copy of all that follows
    data     every group of devices holds a copy of the model and a share of the batch
    fsdp     shares the batch too, and every parameter is split over it (gathered when used)
    tensor   splits heads, MLP columns and vocabulary: one example is computed by several devices

Completions may be sampled over other axes of the same devices, or on devices of their own.
`sharding.py` says which array is split over which axis.
"""

import contextlib
import math
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from cotjax.config import MeshConfig
from cotjax.config.rollout_axes import parse_axes
from cotjax.errors import InputError

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = AXES[:3]  # over which examples are split
_FORCED = "xla_force_host_platform_device_count"
_LARGE_MODEL = 2**25


def use_cpu_cores(weight_bytes: int = 0) -> None:
    """Lets a machine without accelerators share a batch over its cores, as devices do.

    Small matrix products leave cores idle; two devices of one core each do up to 1.5 times the
    work of one device of two. A model above 32 MiB has products that fill the cores, and a copy of
    it per core would cost memory, so it gets one device. Counts above 8 rarely divide a batch. A
    count that the environment sets (`JAX_NUM_CPU_DEVICES`, `XLA_FLAGS`) stands, and so do the
    devices of a JAX that has been used, as in a notebook.

    Args:
      weight_bytes: size of the model's parameters.
    """
    if "JAX_NUM_CPU_DEVICES" in os.environ or _FORCED in os.environ.get("XLA_FLAGS", ""):
        return
    if jax.distributed.is_initialized():  # JAX has been used, to meet the other processes
        return
    if weight_bytes > _LARGE_MODEL:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    power_of_two = 1 << (min(cores or 1, 8).bit_length() - 1)
    with contextlib.suppress(RuntimeError):  # JAX has been used: its devices are what they are
        jax.config.update("jax_num_cpu_devices", power_of_two)


def _devices() -> list[Any]:
    """Those of JAX.

    Raises:
      InputError: JAX_PLATFORMS names a platform that has none here.
    """
    try:
        return jax.devices()
    except RuntimeError as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        if not asked:
            raise
        reason = str(error).strip().splitlines()[0].partition(" (set JAX_PLATFORMS")[0].rstrip(".")
        raise InputError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device here ({reason}). Unset JAX_PLATFORMS "
            "to compute on what there is."
        ) from error


def axis_sizes(count: int, data: int, fsdp: int = 1, tensor: int = 1) -> dict[str, int]:
    """Devices along each axis of a mesh over `count` of them, all in one slice.

    Args:
      count: devices that there are.
      data: copies of the model.
      fsdp: devices that split each copy's parameters.
      tensor: devices that split each layer's computation. One of the three may be -1 and takes the
        devices that are left.

    Raises:
      InputError: the axes need more devices than there are, or -1 leaves a rest.

    Example:
      >>> axis_sizes(8, -1, 2)
      {'data': 4, 'fsdp': 2, 'tensor': 1}
    """
    sizes: dict[str, int] = dict(zip(AXES[1:], (data, fsdp, tensor), strict=True))
    words = ", ".join(f"mesh.{axis} = {size}" for axis, size in sizes.items())
    known = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values():
        rest, over = divmod(count, known)
        if over or not rest:
            raise InputError(
                f"{words}: {count} devices are not a multiple of {known}. "
                f"Set the product of the other axes to a divisor of {count}."
            )
        return {axis: rest if size == -1 else size for axis, size in sizes.items()}
    if known > count:
        raise InputError(
            f"{words}: their product is {known}, this process sees {count} devices. "
            "Set one axis to -1 for the devices that are left."
        )
    return sizes


def make_mesh(
    data: int, fsdp: int = 1, tensor: int = 1, *, devices: list[Any] | None = None
) -> Mesh:
    """A mesh in one slice, neighbours along the axes that communicate most (tensor, then fsdp).

    Args:
      data: see `axis_sizes`.
      fsdp: see `axis_sizes`.
      tensor: see `axis_sizes`.
      devices: of this or another machine (a topology to compile for); None takes those of JAX.

    Raises:
      InputError: the axes need more devices than there are, or -1 leaves a rest.
    """
    devices = _devices() if devices is None else devices
    shape = (1, *axis_sizes(len(devices), data, fsdp, tensor).values())
    devices = devices[: math.prod(shape)]
    try:
        return jax.make_mesh(shape, AXES, devices=devices, axis_types=_auto())
    except NotImplementedError:  # an axis takes a part of one of the torus, as 2 of 4 × 4 chips
        array = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(array, AXES, axis_types=_auto())


def _auto() -> tuple[AxisType, ...]:
    return (AxisType.Auto,) * len(AXES)


def run_mesh(sizes: MeshConfig, devices: list[Any] | None = None) -> Mesh:
    """The mesh on which a run learns, each slice a replica of it.

    Args:
      sizes: of the axes.
      devices: as for `make_mesh`.

    Raises:
      InputError: the devices do not divide into the replicas, or each into the axes; or all of
        them would only sample.
    """
    devices = list(_devices() if devices is None else devices)
    if sizes.rollout_devices:
        devices = devices[: -_check_spare(sizes, len(devices))]
    slices = _slices(devices)
    replicas = sizes.replica or len(slices)
    if len({len(one) for one in slices}) > 1:
        raise InputError(
            f"mesh.rollout_devices = {sizes.rollout_devices}: leaves slices of different sizes to "
            "learn. Set mesh.rollout_devices = 0, or to whole slices."
        )
    if len(slices) not in (1, replicas):
        raise InputError(
            f"mesh.replica = {replicas}: the devices lie in {len(slices)} slices. Set mesh.replica "
            f"= {len(slices)}, or 0 for as many as there are."
        )
    size, over = divmod(len(devices), replicas)
    if over or not size:
        raise InputError(
            f"mesh.replica = {replicas}: does not divide the {len(devices)} devices. Set it to a "
            "divisor."
        )
    parts = (
        slices if len(slices) > 1 else [devices[i : i + size] for i in range(0, len(devices), size)]
    )
    meshes = [make_mesh(sizes.data, sizes.fsdp, sizes.tensor, devices=part) for part in parts]
    return Mesh(np.concatenate([mesh.devices for mesh in meshes]), AXES, axis_types=_auto())


def _check_spare(sizes: MeshConfig, count: int) -> int:
    """The devices that only sample.

    Raises:
      InputError: they leave none, or belong to several processes, which could not hand them over.
    """
    spare = sizes.rollout_devices
    if spare >= count:
        raise InputError(
            f"mesh.rollout_devices = {spare}: there are {count} devices, and some must learn. Set "
            f"mesh.rollout_devices to 1 to {count - 1}, or to 0 to let all do both."
        )
    if jax.process_count() > 1:
        raise InputError(
            f"mesh.rollout_devices = {spare}: this run has {jax.process_count()} processes, and "
            "parameters go from device to device within one. Set mesh.rollout_devices = 0, and "
            'mesh.rollout = "tensor=N" for axes of their own.'
        )
    return spare


def _slices(devices: list[Any]) -> list[list[Any]]:
    """The devices of each slice, which fast links join; all but TPUs lie in one."""
    found: dict[int, list[Any]] = {}
    for device in devices:
        number = getattr(device, "slice_index", 0) if device.platform == "tpu" else 0
        found.setdefault(number, []).append(device)
    return [found[number] for number in sorted(found)]


def rollout_mesh(mesh: Mesh, sizes: MeshConfig) -> Mesh:
    """The mesh on which a run samples: its own, or other axes over the same or other devices.

    Args:
      mesh: of `run_mesh`.
      sizes: with `rollout` and `rollout_devices`.

    Raises:
      InputError: the axes do not fill the devices.
    """
    if not (sizes.rollout or sizes.rollout_devices):
        return mesh
    devices = list(mesh.devices.flat)
    if sizes.rollout_devices:  # those that `run_mesh` has left, and not those beyond its axes
        everyone = list(devices[0].client.devices())
        devices = everyone[-sizes.rollout_devices :]
    own = parse_axes(sizes.rollout or f"tensor={mesh.shape['tensor']}")
    tensor, count = own["tensor"], len(devices)
    data = max(count // tensor, 1) if own["data"] == -1 else own["data"]
    if data * tensor != count:
        raise InputError(
            f'mesh.rollout = "{sizes.rollout}": {data} · {tensor} devices (data · tensor), and '
            f'{count} sample. Set mesh.rollout = "tensor=N" with a divisor of {count}.'
        )
    array = np.array(devices).reshape(1, data, 1, tensor)
    return Mesh(array, AXES, axis_types=_auto())


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_divides(mesh: Mesh, size: int, key: str, *, samples: bool = False) -> None:
    """Refuses a batch that the devices cannot share equally.

    Args:
      mesh: whose devices.
      size: of the batch.
      key: behind the size.
      samples: whether the mesh is that of `mesh.rollout`.

    Raises:
      InputError: names the key, its value and the devices.
    """
    parts = batch_devices(mesh)
    if size % parts:
        fits = max(size // parts, 1) * parts
        axes = [axis for axis in BATCH_AXES if axis != "replica" or mesh.shape[axis] > 1]
        by = " · ".join(f"mesh.{axis}" for axis in axes)
        other = f"mesh.data to a divisor of {size}"
        if samples:
            by, other = "mesh.rollout", "mesh.rollout to a larger tensor axis"
        raise InputError(
            f"{key} = {size}: {parts} devices cannot share it equally ({by}). "
            f"Set {key} = {fits}, or {other}."
        )
