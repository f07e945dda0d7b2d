"""The devices of a run, in one mesh of three axes.

    data     every group of devices holds a copy of the model and a share of the batch
    fsdp     shares the batch too, and every parameter is split over it (gathered when used)
    tensor   splits heads, MLP columns and vocabulary: one example is computed by several devices

`sharding.py` says which array is split over which axis.
"""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from cotjax.errors import InputError

AXES = ("data", "fsdp", "tensor")
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


def make_mesh(data: int, fsdp: int = 1, tensor: int = 1, *, devices: list | None = None) -> Mesh:
    """A mesh over the devices, neighbours where the axes talk most (tensor, then fsdp).

    Args:
      data: copies of the model; -1 takes the devices that are left.
      fsdp: devices that split each copy's parameters.
      tensor: devices that split each layer's computation.
      devices: of this or another machine (a topology to compile for); None takes those of JAX.

    Raises:
      InputError: the axes need more devices than there are, or `data = -1` leaves a rest.
    """
    devices = jax.devices() if devices is None else devices
    rest, over = divmod(len(devices), fsdp * tensor)
    if data == -1 and (over or not rest):
        raise InputError(
            f"mesh.fsdp = {fsdp}, mesh.tensor = {tensor}: {len(devices)} devices are not a "
            f"multiple of {fsdp * tensor}. Set their product to a divisor of {len(devices)}."
        )
    shape = (rest if data == -1 else data, fsdp, tensor)
    if np.prod(shape) > len(devices):
        raise InputError(
            f"mesh.data = {data}, mesh.fsdp = {fsdp}, mesh.tensor = {tensor}: their product is "
            f"{np.prod(shape)}, this process sees {len(devices)} devices. Set mesh.data <= "
            f"{max(rest, 1)}, or -1 for all."
        )
    chosen = devices[: int(np.prod(shape))]
    return jax.make_mesh(shape, AXES, devices=chosen, axis_types=(AxisType.Auto,) * len(AXES))


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
