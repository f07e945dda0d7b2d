"""How long a program takes at least: by the slowest of what it computes, reads and sends.

    seconds = max(operations / peak, bytes / bandwidth, sent / link, sent / network)

once for what stands outside of unknown loops, and once for each of their turns. Real programs do
not overlap everything, so this is a lower bound. Source: Williams, Waterman and Patterson 2009. The
cores of a CPU do one after the other: there the parts add up.
"""

import dataclasses
import functools

from cotjax.planning.chips import Chip
from cotjax.planning.collectives import BEYOND
from cotjax.planning.cost import Cost


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one device.

    Attributes:
      seconds: at least.
      compute: of matrix products alone.
      memory: of the main memory alone.
      link: of fast links alone.
      network: of the data center's network alone.
    """

    seconds: float = 0.0
    compute: float = 0.0
    memory: float = 0.0
    link: float = 0.0
    network: float = 0.0

    def __add__(self, other: "Roofline") -> "Roofline":
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Roofline(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def times(self, count: float) -> "Roofline":
        """So many calls."""
        return Roofline(*(one * count for one in dataclasses.astuple(self)))

    @property
    def bound(self) -> str:
        """What takes longest: compute, memory, link or network."""
        parts = {name: getattr(self, name) for name in ("compute", "memory", "link", "network")}
        return max(parts, key=lambda name: parts[name])


def at_least(cost: Cost, chip: Chip, turns: float = 1.0) -> Roofline:
    """The time of a program.

    Args:
      cost: of one device.
      chip: the device.
      turns: of the unknown loop that does most.
    """
    return _flat(cost.outside, chip) + _flat(cost.longest, chip).times(turns)


def _flat(cost: Cost, chip: Chip) -> Roofline:
    beyond = sum(one.sent for (_, axes), one in cost.moved.items() if axes.endswith(BEYOND))
    parts = (
        cost.flops / chip.flops,
        cost.hbm / chip.hbm_rate,
        (cost.sent - beyond) / chip.link,
        beyond / chip.network,
    )
    return Roofline(max(parts) if chip.overlaps else sum(parts), *parts)


def together(parts: list[Roofline]) -> Roofline:
    """One after the other."""
    return functools.reduce(Roofline.__add__, parts, Roofline())
