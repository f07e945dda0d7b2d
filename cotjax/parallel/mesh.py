"""The devices of a run, in one mesh of three axes.

    data     every group of devices holds a copy of the model and a share of the batch
    fsdp     shares the batch too, and every parameter is split over it (gathered when used)
    tensor   splits heads, MLP columns and vocabulary: one example is computed by several devices

`sharding.py` says which array is split over which axis.
"""

import contextlib
import math
import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from cotjax.errors import InputError

AXES = ("data", "fsdp", "tensor")
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
    """Devices along each axis of a mesh over `count` of them.

    Args:
      count: devices that there are.
      data: as in `make_mesh`.
      fsdp: as in `make_mesh`.
      tensor: as in `make_mesh`.

    Raises:
      InputError: the axes need more devices than there are, or -1 leaves a rest.

    Example:
      >>> axis_sizes(8, -1, 2)
      {'data': 4, 'fsdp': 2, 'tensor': 1}
    """
    sizes: dict[str, int] = dict(zip(AXES, (data, fsdp, tensor), strict=True))
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
    """A mesh over the devices, neighbours along the axes that communicate most (tensor, then fsdp).

    Args:
      data: copies of the model.
      fsdp: devices that split each copy's parameters.
      tensor: devices that split each layer's computation. One of the three may be -1 and takes the
        devices that are left.
      devices: of this or another machine (a topology to compile for); None takes those of JAX.

    Raises:
      InputError: the axes need more devices than there are, or -1 leaves a rest.
    """
    devices = _devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor)
    shape = tuple(sizes.values())
    return jax.make_mesh(
        shape, AXES, devices=devices[: math.prod(shape)], axis_types=(AxisType.Auto,) * len(AXES)
    )


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_divides(mesh: Mesh, size: int, key: str) -> None:
    """Refuses a batch that the devices cannot share equally.

    Raises:
      InputError: names the key, its value and the devices.
    """
    parts = batch_devices(mesh)
    if size % parts:
        fits = max(size // parts, 1) * parts
        raise InputError(
            f"{key} = {size}: {parts} devices cannot share it equally (mesh.data · mesh.fsdp). "
            f"Set {key} = {fits}, or mesh.data to a divisor of {size}."
        )
