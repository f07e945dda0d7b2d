"""`model.remat = "auto"`: what the backward pass computes again, as little as fits the devices."""

import dataclasses
from typing import Any

from cotjax.config import Config, change
from cotjax.machine import size
from cotjax.planning.collectives import MeshShape
from cotjax.planning.estimate import estimate_program
from cotjax.planning.memory import memory_of, resident
from cotjax.planning.opening import opened, stages_of
from cotjax.planning.steps import usual_programs

AUTO = "auto"
FASTEST_FIRST = "none", "dots", "full"
FILLED = 0.9  # of a device's memory, as these are estimates


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What the rule found.

    Attributes:
      remat: a value of `model.remat`.
      needed: bytes of a device in the largest update, with each value that was looked at.
      free: bytes that a device has.
    """

    remat: str
    needed: dict[str, int]
    free: int

    def __str__(self) -> str:
        sizes = ", ".join(f'{size(one)} with "{name}"' for name, one in self.needed.items())
        return (
            f'model.remat = "auto" is "{self.remat}": of {size(self.free)} that a device has free, '
            f"an update needs about {sizes}."
        )


def choose_remat(config: Config, mesh: Any, free: int) -> Chosen:
    """The fastest rematerialisation with which every update fits, by the plan's estimate.

    If none does, the one that needs least. Nothing is compiled and no weights are read.

    Args:
      config: of one stage.
      mesh: of devices that may not be there.
      free: bytes of each of them.

    Raises:
      InputError: see `opening.opened`.
    """
    needed: dict[str, int] = {}
    for remat in FASTEST_FIRST:
        needed[remat] = update_bytes(change(config, {"model": {"remat": remat}}, "auto"), mesh)
        if needed[remat] <= FILLED * free:
            break
    return Chosen(remat, needed, free)


def update_bytes(config: Config, mesh: Any) -> int:
    """Bytes of a device while the largest of a stage's updates runs, an estimate; 0 without any."""
    (config,) = stages_of(config)
    shape = MeshShape(dict(mesh.shape))
    with opened(config, mesh) as stage:
        held = resident(stage)
        updates = [
            one for one in usual_programs(list(stage.programs())) if one.name.startswith("update")
        ]
        found = (memory_of(estimate_program(one, shape), stage, config, held) for one in updates)
        return max((one.total for one in found), default=0)
