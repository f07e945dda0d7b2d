"""Devices by a name: `v5e:4x4`, two slices `v5e:4x4*2`, `h100:8`, `cpu:8`; none need be there."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from cotjax.config import MeshConfig
from cotjax.errors import InputError
from cotjax.planning.chips import CHIPS, CPU
from cotjax.startup import gather_whole

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    *("8x8x8", "8x8x16", "8x16x16"),
)
# The shapes of slices that Google Cloud rents, by chip.
SHAPES = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT}
_CORES = ("v4", "v5p")  # whose accelerator types count two cores per chip: v5p-8 has 4 chips
_MOST = 1024  # devices of a CPU or of GPUs
_FORCED = "xla_force_host_platform_device_count"
_SYNTAX = re.compile(r"(\w+)(?::|-)([\dx]+)(?:\*(\d+))?")

# What libtpu would ask a TPU machine, answered so that it compiles where there is none.
_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that are to be rented.

    Attributes:
      name: as it was asked for.
      chip: a key of `CHIPS`, or "cpu".
      shape: of a slice, "4x4"; the count of other devices.
      slices: how many, joined by the data center's network.
    """

    name: str
    chip: str
    shape: str
    slices: int = 1

    @property
    def platform(self) -> str:
        """cpu, gpu or tpu."""
        return CPU if self.chip == CPU else CHIPS[self.chip].platform

    @property
    def slice_size(self) -> int:
        """Devices of a slice."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def size(self) -> int:
        """All devices."""
        return self.slice_size * self.slices

    @property
    def island(self) -> int:
        """Devices that fast links join: those of a slice, or of a host with GPUs."""
        return (self.platform == "gpu" and CHIPS[self.chip].island) or self.slice_size


def parse_topology(name: str) -> Topology:
    """Reads a name.

    Args:
      name: `CHIP:SHAPE`, `CHIP:SHAPE*SLICES`, an accelerator type such as `v5e-16` or `v5p-8`, or
        `CHIP:COUNT` for GPUs and the CPU.

    Raises:
      InputError: there is no such topology; names those that there are.

    Example:
      >>> parse_topology("v5e-16*2")
      Topology(name='v5e-16*2', chip='v5e', shape='4x4', slices=2)
    """
    found = _SYNTAX.fullmatch(name.strip().lower())
    if not found or found[1] not in (*CHIPS, CPU):
        raise InputError(
            f"--topology {name}: no such devices. Give a TPU slice such as v5e:4x4 or v5e:4x4*2 "
            f"({', '.join(SHAPES)}), GPUs such as h100:8 ({', '.join(_gpus())}), or cpu:8."
        )
    chip, shape, slices = found[1], found[2], int(found[3] or 1)
    if chip not in SHAPES:
        return _counted(name, chip, shape, slices)
    if "x" not in shape:
        if chip in _CORES and ":" in name:
            raise InputError(
                f"--topology {name}: {chip}-{shape} is the accelerator type, which counts two "
                f"cores for a chip. Give {chip}-{shape}, or a shape such as {chip}:2x2x1."
            )
        shape = _by_count(chip, int(shape))
    if shape not in SHAPES[chip]:
        raise InputError(
            f"--topology {name}: {chip} has no such slice. It has {', '.join(SHAPES[chip])}."
        )
    if not slices:
        raise InputError(f"--topology {name}: no slices. Leave *0 out, or give 1 or more.")
    return Topology(name, chip, shape, slices)


def _counted(name: str, chip: str, shape: str, slices: int) -> Topology:
    if "x" in shape or slices != 1 or not 1 <= int(shape) <= _MOST:
        raise InputError(
            f"--topology {name}: {chip} takes a count from 1 to {_MOST}, such as {chip}:8."
        )
    return Topology(name, chip, shape)


def _by_count(chip: str, count: int) -> str:
    """The shape of an accelerator type's number, "" if there is none."""
    cores = 2 if chip in _CORES else 1
    fits = [one for one in SHAPES[chip] if math.prod(map(int, one.split("x"))) * cores == count]
    return fits[0] if fits else ""


def _gpus() -> list[str]:
    return [name for name, chip in CHIPS.items() if chip.platform == "gpu"]


def set_up(topology: Topology) -> None:
    """Sets what JAX and libtpu read from the environment; call before JAX is imported.

    Raises:
      InputError: a TPU topology without libtpu.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if topology.platform == "tpu":
        check_libtpu(topology)
        os.environ.update(_LIBTPU)
        gather_whole()  # as a run does
        return
    if _FORCED not in os.environ.get("XLA_FLAGS", ""):  # JAX takes one of the two
        os.environ["JAX_NUM_CPU_DEVICES"] = str(topology.size)


def check_libtpu(topology: Topology) -> None:
    """Refuses a TPU topology where the TPU's compiler is missing.

    Raises:
      InputError: see above.
    """
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise InputError(
            f"--topology {topology.name}: the compiler for TPUs (libtpu) is not installed. Run "
            'pip install "cotjax[plan]"; no TPU is needed.'
        )


def devices_of(topology: Topology) -> list[Any]:
    """The devices to compile for: a TPU slice's, or as many of this CPU.

    Raises:
      InputError: JAX was started with fewer devices.
    """
    import jax
    from jax.experimental import topologies

    if topology.platform != "tpu":
        found = jax.devices("cpu")
        if len(found) < topology.size:
            raise InputError(
                f"--topology {topology.name}: JAX has {len(found)} devices here. Set "
                f"JAX_NUM_CPU_DEVICES={topology.size} before it is imported."
            )
        return found[: topology.size]
    more: dict[str, Any] = {}
    if topology.slices > 1:
        more["num_slices"] = topology.slices
    if topology.chip == "v4":  # both cores of a chip are one device
        more["chip_config_name"] = "megacore"
    if topology.shape == "1x1":
        more["chips_per_host_bounds"] = (1, 1, 1)
    name = f"{topology.chip}:{topology.shape}"
    return list(topologies.get_topology_desc(name, platform="tpu", **more).devices)


def mesh_of(topology: Topology, sizes: MeshConfig, devices: Sequence[Any] | None = None) -> Any:
    """The mesh of a config on a topology, a replica on each slice.

    Args:
      topology: whose devices.
      sizes: of the axes, as the config has them.
      devices: those of `devices_of`; None asks for them.

    Raises:
      InputError: the axes do not fill the devices.
    """
    from cotjax.parallel.mesh import run_mesh

    sizes = dataclasses.replace(sizes, replica=mesh_sizes(topology, sizes)["replica"])
    return run_mesh(sizes, list(devices_of(topology) if devices is None else devices))


def mesh_sizes(topology: Topology, sizes: MeshConfig) -> dict[str, int]:
    """Devices along each axis; needs no devices.

    Args:
      topology: that the axes are to fill.
      sizes: of the axes, as the config has them.

    Raises:
      InputError: the axes do not fill the devices.
    """
    from cotjax.parallel.mesh import axis_sizes

    replicas, learning = sizes.replica or topology.slices, topology.size - sizes.rollout_devices
    if learning < 1:
        raise InputError(
            f"mesh.rollout_devices = {sizes.rollout_devices}: {topology.name} has {topology.size} "
            f"devices, and some must learn. Set mesh.rollout_devices below {topology.size}."
        )
    if topology.slices not in (1, replicas) or learning % replicas:
        raise InputError(
            f"mesh.replica = {replicas}: {topology.name} has {topology.slices} slices and "
            f"{learning} devices that learn. Set mesh.replica = 0 for a replica on each slice."
        )
    own = axis_sizes(learning // replicas, sizes.data, sizes.fsdp, sizes.tensor)
    own = {"replica": replicas, **own}
    if (used := math.prod(own.values())) < learning:
        shown = ", ".join(f"mesh.{axis} = {size}" for axis, size in own.items())
        raise InputError(
            f"{shown}: use {used} of the {learning} devices of {topology.name}. Set one "
            "of them to -1, which takes what is left."
        )
    return own
