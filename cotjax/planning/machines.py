"""The machines behind a topology: how many, with how many chips and how much memory, by what names.

Sources, read in November 2026:
  machine types, memory, labels   https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
  accelerator types               https://cloud.google.com/tpu/docs/v4, v5e, v5p and v6e
  images of TPU VMs               https://cloud.google.com/tpu/docs/runtimes
  names of GPUs                   SkyPilot 0.14's catalog; 8 share a host, as NVIDIA builds them
"""

import dataclasses

from cotjax.errors import InputError
from cotjax.planning.topologies import Topology

GPUS_PER_HOST = 8


@dataclasses.dataclass(frozen=True)
class _Tpu:
    """A TPU generation as Google Cloud names it.

    Attributes:
      machine: Compute Engine's type, `{}` for the chips of a host.
      memory: GB of a host, by its chips.
      label: of GKE's nodes, cloud.google.com/gke-tpu-accelerator.
      kind: of the accelerator type, before its number.
      cores: that this number counts for a chip.
      runtime: the image of a TPU VM.
    """

    machine: str
    memory: dict[int, int]
    label: str
    kind: str
    cores: int
    runtime: str


_TPUS = {
    "v4": _Tpu(
        *("ct4p-hightpu-{}t", {4: 407}, "tpu-v4-podslice"),
        *("v4", 2, "tpu-ubuntu2204-base"),
    ),
    "v5e": _Tpu(
        *("ct5lp-hightpu-{}t", {1: 48, 4: 192, 8: 384}, "tpu-v5-lite-podslice"),
        *("v5litepod", 1, "v2-alpha-tpuv5-lite"),
    ),
    "v5p": _Tpu(
        *("ct5p-hightpu-{}t", {4: 448}, "tpu-v5p-slice"),
        *("v5p", 2, "v2-alpha-tpuv5"),
    ),
    "v6e": _Tpu(
        *("ct6e-standard-{}t", {1: 176, 4: 720, 8: 1440}, "tpu-v6e-slice"),
        *("v6e", 1, "v2-alpha-tpuv6e"),
    ),
}
_GPUS = {"a100": "A100-80GB", "h100": "H100", "h200": "H200", "b200": "B200", "l4": "L4"}


@dataclasses.dataclass(frozen=True)
class Machines:
    """The hosts of a topology.

    Attributes:
      chips: of a host.
      hosts: of a slice; of all, where devices are no TPUs.
      slices: joined by the data center's network.
      accelerator: the accelerator type of a slice (`v5litepod-16`), a GPU's name (`H100`), or "".
      machine: Compute Engine's machine type of a host; "" for others than TPUs.
      memory: GB of a host; 0 where it is not known.
      label: of GKE's nodes with this TPU, "" for others.
      runtime: the image of a TPU VM, "" for others.
    """

    chips: int
    hosts: int
    slices: int
    accelerator: str = ""
    machine: str = ""
    memory: int = 0
    label: str = ""
    runtime: str = ""

    @property
    def all_hosts(self) -> int:
        """Hosts of all slices: processes of a run on TPUs."""
        return self.hosts * self.slices


def machines_of(topology: Topology) -> Machines:
    """The hosts that a topology is rented as.

    A slice of at most 8 chips of v5e or v6e is one host; larger ones have hosts of 4 chips, as all
    of v4 and v5p have. GPUs come up to 8 to a host.

    Raises:
      InputError: the GPUs do not fill hosts.

    Example:
      >>> from cotjax.planning.topologies import parse_topology
      >>> found = machines_of(parse_topology("v5e:4x4"))
      >>> found.hosts, found.chips, found.accelerator, found.machine
      (4, 4, 'v5litepod-16', 'ct5lp-hightpu-4t')
    """
    if topology.platform != "tpu":
        return _counted(topology)
    tpu, size = _TPUS[topology.chip], topology.slice_size
    chips = size if size in tpu.memory else 4
    return Machines(
        chips=chips,
        hosts=size // chips,
        slices=topology.slices,
        accelerator=f"{tpu.kind}-{size * tpu.cores}",
        machine=tpu.machine.format(chips),
        memory=tpu.memory[chips],
        label=tpu.label,
        runtime=tpu.runtime,
    )


def _counted(topology: Topology) -> Machines:
    if topology.platform == "cpu":
        return Machines(chips=topology.size, hosts=1, slices=1)
    chips = min(topology.size, GPUS_PER_HOST)
    hosts, rest = divmod(topology.size, chips)
    if rest:
        raise InputError(
            f"--topology {topology.name}: {topology.size} GPUs do not fill hosts of "
            f"{GPUS_PER_HOST}. Give {topology.size - rest} or {topology.size - rest + chips}."
        )
    return Machines(chips=chips, hosts=hosts, slices=1, accelerator=_GPUS[topology.chip])
