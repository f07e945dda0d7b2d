"""Collectives of a program: what each sends, and over which axes of the mesh."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from cotjax.planning.hlo import ArrayType, Instruction

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BEYOND = " (network)"  # behind the axes of what leaves an island of fast links


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Where a program's devices lie.

    Attributes:
      sizes: of the mesh's axes, by name, in the order in which devices are numbered.
      island: devices that fast links join; 0 = all.
    """

    sizes: Mapping[str, int]
    island: int = 0

    @property
    def size(self) -> int:
        """All devices."""
        return math.prod(self.sizes.values())

    def axes(self, groups: np.ndarray) -> str:
        """The axes along which the devices of a group differ, joined by "+".

        Args:
          groups: [N, K] numbers of devices that exchange something.
        """
        places = np.unravel_index(groups, tuple(self.sizes.values()))
        differ = [
            axis
            for axis, place in zip(self.sizes, places, strict=True)
            if (place != place[:, :1]).any()
        ]
        island = self.island or self.size
        beyond = (groups // island != groups[:, :1] // island).any()
        return "+".join(differ) + (BEYOND if beyond else "")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over the same axes.

    Attributes:
      count: how many.
      bytes: of their results on each device.
      sent: bytes that each device sends, as rings do it.
    """

    count: float
    bytes: float
    sent: float

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes, self.sent + other.sent)

    def times(self, turns: float) -> "Traffic":
        """The same so many times."""
        return Traffic(self.count * turns, self.bytes * turns, self.sent * turns)


def collective(one: Instruction, mesh: MeshShape) -> tuple[tuple[str, str], Traffic] | None:
    """((kind, axes), traffic) of an instruction; None if it is no collective, or moves nothing.

    A ring sends (n - 1) / n of a gathered or scattered whole, twice that to reduce it everywhere.
    What goes from slice to slice is a transfer between the hosts in a TPU's program, a send and its
    recv, which say what they are together.
    """
    if one.opcode == "send":
        return _between_slices(one, mesh)
    kind = one.opcode.removesuffix("-start")
    goes_on = '"flag_start":' in one.rest and '"flag_start":"-1"' not in one.rest
    if kind not in KINDS or goes_on:  # a TPU works on in one that it has started
        return None
    size = sum(array.bytes for array in results(one))
    groups = _groups(one.rest, kind, mesh)
    count = groups.shape[1]
    if count < 2:
        return None
    return (kind, mesh.axes(groups)), Traffic(1, size, _sent(kind, size, count))


def results(one: Instruction) -> tuple[ArrayType, ...]:
    """The arrays that a collective gives; what starts has its operands before them.

    One that starts a sum may have its results alone.
    """
    taken = len(one.operands)
    if not one.opcode.endswith("-start") or len(one.arrays) < 2 * taken:
        return one.arrays
    return one.arrays[taken : 2 * taken]


def _between_slices(one: Instruction, mesh: MeshShape) -> tuple[tuple[str, str], Traffic] | None:
    slices = mesh.size // (mesh.island or mesh.size)
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    if not found or slices < 2:
        return None
    asked, size = found[1].lower().replace("_", "-"), one.arrays[0].bytes
    kind = asked if asked in KINDS else "collective-permute"
    axes = mesh.axes(np.arange(mesh.size).reshape(slices, -1).T)
    return (kind, axes), Traffic(1, size, _sent(kind, size, slices))


def over_axis(
    kind: str, axis: str, size: float, mesh: MeshShape, count: float = 1
) -> tuple[tuple[str, str], Traffic] | None:
    """The same of collectives over one axis; None if it has one device.

    Args:
      kind: of `KINDS`.
      axis: of the mesh.
      size: bytes of their results on each device, of all together.
      mesh: whose axis.
      count: how many they are.
    """
    sizes, place = tuple(mesh.sizes.values()), list(mesh.sizes).index(axis)
    if sizes[place] < 2:
        return None
    numbers = np.moveaxis(np.arange(mesh.size).reshape(sizes), place, -1)
    axes = mesh.axes(numbers.reshape(-1, sizes[place]))
    return (kind, axes), Traffic(count, size, _sent(kind, size, sizes[place]))


def _sent(kind: str, size: float, count: int) -> float:
    """Bytes that each of `count` devices sends, of results of `size`."""
    part = (count - 1) / count
    return (
        size
        * {
            "all-gather": part,
            "all-reduce": 2 * part,
            "reduce-scatter": count - 1,
            "all-to-all": part,
            "collective-permute": 1,
        }[kind]
    )


def _groups(rest: str, kind: str, mesh: MeshShape) -> np.ndarray:
    """[N, K] devices of each group."""
    name = "source_target_pairs" if kind == "collective-permute" else "replica_groups"
    if found := re.search(rf"{name}=mesh\[([^\]]*)\]([^{{]*)\{{([^}}]*)\}}", rest):
        return _of_axes(*found.groups())
    if found := re.search(rf"{name}=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, sizes, order = (
            tuple(map(int, part.split(","))) if part else () for part in found.groups()
        )
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    if found := re.search(rf"{name}=\{{(\{{[\d,{{}} ]*\}})\}}", rest):
        rows = [list(map(int, row.split(","))) for row in re.findall(r"\{([\d, ]+)\}", found[1])]
        return np.array(rows)
    return np.arange(mesh.size)[None]  # all of them


def _of_axes(mesh: str, devices: str, axes: str) -> np.ndarray:
    """The groups of `mesh['a'=4,'b'=2], device_ids=(…) {'a','b':(1)2}`.

    Args:
      mesh: its axes with their sizes.
      devices: the order of the devices, if it is not their own.
      axes: along which a group lies; of a part of one, (the size before it) its size.
    """
    cut = {name: tuple(map(int, size)) for name, *size in _PART.findall(axes)}
    chosen = re.findall(r"'([^']+)'", axes)
    shape: list[int] = []
    inside: list[int] = []
    for name, size in re.findall(r"'([^']+)'=(\d+)", mesh):
        before, own = cut.get(name, (1, int(size)))
        if name in chosen:
            inside.append(len(shape) + 1)
        shape += [before, own, int(size) // (before * own)]
    numbers = np.arange(math.prod(shape))
    if found := re.search(r"(?:\[[\d,]+\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", devices):
        sizes, order = (tuple(map(int, one.split(","))) if one else () for one in found.groups())
        numbers = numbers.reshape(sizes)
        numbers = numbers.transpose(order) if order else numbers
    elif listed := re.findall(r"\d+", devices):
        numbers = np.array(list(map(int, listed)))
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    grid = numbers.reshape(shape).transpose(*outside, *inside)
    return grid.reshape(-1, math.prod(shape[axis] for axis in inside))


_PART = re.compile(r"'([^']+)':\((\d+)\)(\d+)")
