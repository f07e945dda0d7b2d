"""A whole run on a topology: every stage of a list, its time and its price."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cotjax.config import Config, change, name_of
from cotjax.errors import InputError
from cotjax.planning.chips import CHIPS, CPU, Chip
from cotjax.planning.machines import GPUS_PER_HOST, machines_of
from cotjax.planning.memory import Memory
from cotjax.planning.opening import opened
from cotjax.planning.remat import AUTO, FILLED, choose_remat
from cotjax.planning.stage_plan import StagePlan, Told, plan_stage
from cotjax.planning.topologies import Topology, mesh_of
from cotjax.planning.verdict import Change, best_change

HOUR = 3600


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run needs, and whether it fits.

    Attributes:
      topology: its devices.
      chip: each of them.
      mesh: sizes of its axes.
      stages: in order.
      price: of a device for an hour; None if it was not given.
      notes: what a reader should know.
      estimated: whether nothing was compiled.
    """

    topology: Topology
    chip: Chip
    mesh: dict[str, int]
    stages: tuple[StagePlan, ...]
    price: float | None = None
    notes: tuple[str, ...] = ()
    estimated: bool = False

    @property
    def tightest(self) -> tuple[StagePlan, Memory]:
        """The stage and the program that need most memory."""
        stage = max(self.stages, key=lambda one: one.peak.total)
        return stage, stage.peak

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return all(stage.fits(self.chip) for stage in self.stages)

    @property
    def short(self) -> int:
        """Bytes that a device lacks for a search; an estimate is to leave a tenth of its memory."""
        most = int(FILLED * self.chip.hbm) if self.estimated else self.chip.hbm
        return max(self.tightest[1].total - most, 0 if self.fits else 1)

    @property
    def change(self) -> Change | None:
        """The one change that frees most memory where it is short, and with which the run opens."""
        if self.fits:
            return None
        stage, memory = self.tightest

        def works(change: Change) -> bool:
            try:
                config = change.of(stage.config)
                with opened(config, mesh_of(self.topology, config.mesh)):
                    return True
            except InputError:  # as where the devices cannot share a smaller batch
                return False

        return best_change(stage.config, memory, self.mesh, works)

    @property
    def seconds(self) -> float:
        """Of the run, at least."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def chip_hours(self) -> float:
        """Of all devices, at least."""
        return self.seconds * self.topology.size / HOUR

    @property
    def cost(self) -> float | None:
        """In the price's currency, at least."""
        return None if self.price is None else self.price * self.chip_hours


def chip_of(topology: Topology) -> Chip:
    """What a device of a topology can do; this CPU is measured."""
    if topology.chip != CPU:
        return CHIPS[topology.chip]
    from cotjax.planning.measured import measured

    return measured(topology.size)


def plan_run(
    configs: Sequence[Config],
    topology: Topology,
    *,
    chip: Chip | None = None,
    devices: list[Any] | None = None,
    price: float | None = None,
    steps_only: bool = False,
    exact: bool = False,
    estimate: bool = False,
    told: Told = lambda _: None,
) -> RunPlan:
    """Plans the stages of a run together.

    Args:
      configs: of `opening.stages_of`.
      topology: where it shall run.
      chip: what its devices can do; None: as documented, or measured of a CPU.
      devices: of `devices_of`; None asks for them.
      price: of a device for an hour.
      steps_only: leave out evaluations and what a run begins with.
      exact: compile every layer of samplers, see `depth`.
      estimate: compile nothing, see `estimate`.
      told: is given a sentence before each program that is compiled.

    Raises:
      InputError: a config that cannot be split on the topology, or a wrong input.
    """
    chip = chip_of(topology) if chip is None else chip
    stages, mesh, chosen = [], None, []
    for config in configs:
        mesh = mesh_of(topology, config.mesh, devices)
        if config.model.remat == AUTO:
            found = choose_remat(config, mesh, chip.hbm)
            config = change(config, {"model": {"remat": found.remat}}, AUTO)
            chosen.append(f"{name_of(config.stage)}: {found}")
        stages.append(
            plan_stage(
                *(config, mesh, chip),
                island=topology.island,
                steps_only=steps_only,
                exact=exact,
                estimate=estimate,
                told=told,
            )
        )
    sizes = {axis: int(size) for axis, size in mesh.shape.items()} if mesh is not None else {}
    notes = (*chosen, *((_ESTIMATED,) if estimate else _notes(topology)))
    if any(config.mesh.rollout_devices for config in configs) and _hosts(topology) > 1:
        notes += (
            f"mesh.rollout_devices needs one process, and {topology.name} has {_hosts(topology)} "
            "hosts: the run would be refused there. Take one host, or mesh.rollout.",
        )
    return RunPlan(topology, chip, sizes, tuple(stages), price, notes, estimated=estimate)


_ESTIMATED = (
    "Nothing was compiled: operations are those of the programs' equations, temporaries, memory "
    "traffic and collectives are estimates. Leave --estimate out for the compiler's own."
)


def _hosts(topology: Topology) -> int:
    size = GPUS_PER_HOST
    return (
        -(-topology.size // size) if topology.platform == "gpu" else machines_of(topology).all_hosts
    )


def _notes(topology: Topology) -> tuple[str, ...]:
    if topology.platform != "gpu":
        return ()
    return (
        "There is no compiler for GPUs here: the programs were compiled for as many CPU devices. "
        "Operations and collectives are theirs; temporaries are an upper bound, since a CPU "
        "computes bfloat16 in float32. Memory is 95 % of a GPU's: the files of launch/ set "
        "XLA_CLIENT_MEM_FRACTION=.95, where JAX takes 75 % by itself.",
    )
