"""What a compiled program does and how often, counted from its text.

JAX's `cost_analysis` counts the body of a loop once; here it counts as often as the loop turns. A
loop whose end the compiler cannot know (decoding) is kept apart, per turn. Of a conditional the
costliest branch counts. Sums of elements cost no operations here: what they cost is memory traffic.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from cotjax.planning.collectives import KINDS, MeshShape, Traffic, collective, results
from cotjax.planning.hlo import ArrayType, HloModule, Instruction, Table
from cotjax.planning.products import operations

# What moves no array: names, places, and the parts of others.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("while", "conditional", "call", "opt-barrier", "partition-id", "replica-id", "domain"),
    "async-start",
}
_ENDS = ("-done", "-update")  # of what was counted where it started
_INSIDE = ("call", "fusion", "async-start", "custom-call")  # what calls a computation once
# A collective may go on in several fusions, each a part of it beside other work: it stands in all
# of them, marked, and counts in the one that starts it.
_CHAINED, _STARTS = "chain_id=", "async-collective-start"
Moved = Mapping[tuple[str, str], Traffic]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one device.

    Attributes:
      flops: operations of matrix products and of kernels that say theirs.
      hbm: bytes from and to the device's memory.
      copies: bytes of arrays that are written again in another order, to the device's memory.
      moved: collectives by (kind, axes of the mesh).
      loops: what a turn costs of loops with an unknown end, by name; outside of the numbers above.
    """

    flops: float = 0.0
    hbm: float = 0.0
    copies: float = 0.0
    moved: Moved = dataclasses.field(default_factory=dict)
    loops: Mapping[str, "Cost"] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Cost") -> "Cost":
        moved = dict(self.moved)
        for key, traffic in other.moved.items():
            moved[key] = moved[key] + traffic if key in moved else traffic
        loops = {**self.loops, **other.loops}
        numbers = (self.flops + other.flops, self.hbm + other.hbm, self.copies + other.copies)
        return Cost(*numbers, moved, loops)

    def times(self, turns: float) -> "Cost":
        """The same so many times; unknown loops inside too."""
        moved = {key: traffic.times(turns) for key, traffic in self.moved.items()}
        loops = {name: loop.times(turns) for name, loop in self.loops.items()}
        return Cost(self.flops * turns, self.hbm * turns, self.copies * turns, moved, loops)

    @property
    def outside(self) -> "Cost":
        """Without the unknown loops."""
        return dataclasses.replace(self, loops={})

    @property
    def longest(self) -> "Cost":
        """A turn of the unknown loop that does most; nothing if there is none."""
        return max(self.loops.values(), key=lambda loop: (loop.flops, loop.hbm), default=Cost())

    @property
    def sent(self) -> float:
        """Bytes that the device sends."""
        return sum(traffic.sent for traffic in self.moved.values())

    def with_turns(self, turns: float) -> "Cost":
        """All of it, where the unknown loop that does most turns so often, and others never."""
        return self.outside + self.longest.times(turns)


def count(module: HloModule, mesh: MeshShape) -> Cost:
    """The cost of a program on one device.

    Args:
      module: as compiled for a mesh.
      mesh: whose devices it numbers.
    """
    return _Counter(module, mesh).of(module.entry)


def count_loops(module: HloModule, mesh: MeshShape, turns: int) -> Cost:
    """What the loops of so many turns do, wherever they stand: of a model's depth, its layers.

    Args:
      module: as compiled for a mesh.
      mesh: whose devices it numbers.
      turns: of such a loop.
    """
    return _Counter(module, mesh).within(module.entry, turns)


class _Counter:
    """Counts each computation once, however often it is called."""

    def __init__(self, module: HloModule, mesh: MeshShape) -> None:
        self._module, self._mesh = module, mesh
        self.of = functools.cache(self._of)
        self._users = functools.cache(self._users_of)

    def _of(self, name: str) -> Cost:
        table = self._module.computations[name]
        found = (self._one(one, table) for one in table.values())
        cost = functools.reduce(Cost.__add__, found, Cost())
        return _scattered(cost, table) if name.startswith(_SCATTERS) else cost

    def _one(self, one: Instruction, table: Table) -> Cost:
        if one.opcode == "while":
            return self._loop(one)
        if one.opcode == "conditional":
            branches = [self.of(name) for name in one.called]
            return max(branches, key=lambda cost: (cost.flops, cost.hbm), default=Cost())
        found = Cost(flops=operations(one, table), hbm=self._traffic(one, table))
        if one.opcode == "copy":
            found = dataclasses.replace(found, copies=_main(one.arrays))
        if moved := collective(one, self._mesh):
            found = dataclasses.replace(found, moved=dict([moved]))
        if one.opcode in _INSIDE:
            for name in one.called:
                inner = self.of(name)
                # A fusion's steps meet in registers: its own operands and results are the traffic.
                if one.opcode == "fusion":
                    inner = dataclasses.replace(inner, hbm=0.0, copies=0.0)
                    inner = dataclasses.replace(inner, moved={}) if self._goes_on(one) else inner
                found += inner
        return found

    def _goes_on(self, one: Instruction) -> bool:
        """Whether a fusion does a part of a collective that another one started."""
        inner = self._module.computations[one.called[0]].values()
        return not one.name.startswith(_STARTS) and any(map(_chained, inner))

    def _loop(self, one: Instruction) -> Cost:
        turn = self.of(one.attribute("body")) + self.of(one.attribute("condition"))
        turns = self._module.turns(one)
        if turns:
            return turn.times(turns)
        # A loop inside is counted as if it turned once.
        whole = functools.reduce(Cost.__add__, turn.loops.values(), turn.outside)
        return Cost(loops={one.name: whole})

    def within(self, name: str, turns: int) -> Cost:
        """What loops of so many turns do in a computation and in all that it calls."""
        found = Cost()
        for one in self._module.computations[name].values():
            if one.opcode == "while":
                known, body = self._module.turns(one), one.attribute("body")
                found += self._loop(one) if known == turns else self._times(body, known, turns)
            elif one.opcode == "conditional":
                branches = [self.within(called, turns) for called in one.called]
                found += max(branches, key=lambda cost: (cost.flops, cost.hbm), default=Cost())
            elif one.opcode in _INSIDE and one.opcode != "fusion":
                for called in one.called:
                    found += self.within(called, turns)
        return found

    def _times(self, body: str, known: int, turns: int) -> Cost:
        return self.within(body, turns).times(known or 1)

    # Memory.

    def _traffic(self, one: Instruction, table: Table) -> float:
        """Bytes that an instruction reads from and writes to the main memory."""
        if one.opcode in _FREE or one.opcode.endswith(_ENDS):
            return 0.0
        if one.opcode == "fusion":
            return sum(self._of_fusion(one, table))
        return sum(_read(one, table)) + _written(one, table)

    def _of_fusion(self, one: Instruction, table: Table) -> Iterator[float]:
        inner, part = self._module.computations[one.called[0]], self._goes_on(one)
        chained = any(map(_chained, inner.values()))  # what it only hands on lies where it lay
        for number, parameter in _parameters(inner):
            if number >= len(one.operands) or one.operands[number] not in table:
                continue
            whole = _main(table[one.operands[number]].arrays)
            yield min(whole, self._of_uses(parameter, one.called[0], whole, part=part))
        root = self._module.root(one.called[0])
        results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(results) != len(one.arrays):
            yield _main(one.arrays)
            return
        for array, result in zip(one.arrays, results, strict=True):
            result = _behind(result, inner)
            if not array.space and not (
                (part and _chained(result)) or (chained and result.opcode == "parameter")
            ):
                yield min(_main([array]), _written(result, inner))

    def _of_uses(
        self, one: Instruction, computation: str, whole: float, *, part: bool = False
    ) -> float:
        """Bytes that a fusion reads of a value: of one that is only sliced, the slices."""
        if self._module.root(computation) is one:
            return whole
        total = 0.0
        for user in self._users(computation).get(one.name, ()):
            if part and (_chained(user) or (user.root and user.opcode == "tuple")):
                continue  # handed on, with what the collective was counted for where it starts
            if user.opcode in _SLICES and user.operands[0] == one.name:
                total += sum(array.bytes for array in user.arrays)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == one.name:
                continue  # written in place
            elif user.opcode in _SAME:
                total += self._of_uses(user, computation, whole)
            elif user.opcode == "fusion":  # one inside of this one
                for number, parameter in _parameters(self._module.computations[user.called[0]]):
                    if number < len(user.operands) and user.operands[number] == one.name:
                        total += self._of_uses(parameter, user.called[0], whole)
            else:
                return whole
        return total

    def _users_of(self, computation: str) -> Mapping[str, Sequence[Instruction]]:
        users: dict[str, list[Instruction]] = {}
        for one in self._module.computations[computation].values():
            for operand in dict.fromkeys(one.operands):
                users.setdefault(operand, []).append(one)
        return users


def _chained(one: Instruction) -> bool:
    return _CHAINED in one.rest


def _parameters(table: Table) -> Iterator[tuple[int, Instruction]]:
    """The arguments of a computation, by number."""
    return ((int(one.rest), one) for one in table.values() if one.opcode == "parameter")


_SCATTERS = "all-reduce-scatter"  # what a TPU calls the fusion that gives each device its own part


def _scattered(cost: Cost, table: Table) -> Cost:
    """Of a reduction of which each device keeps a part alone: half of it is never sent."""
    (result,) = (one for one in table.values() if one.root)
    part = sum(array.bytes for array in result.arrays)
    moved = {
        ("reduce-scatter", axes): Traffic(one.count, part, one.sent / 2)
        for (_, axes), one in cost.moved.items()
    }
    return dataclasses.replace(cost, moved=moved)


_SAME = ("bitcast", "copy", "reshape", "convert")  # what only passes an array on


def _behind(one: Instruction, table: Table) -> Instruction:
    """The instruction behind bitcasts."""
    while one.opcode == "bitcast" and one.operands[0] in table:
        one = table[one.operands[0]]
    return one


def _main(arrays: Sequence[ArrayType]) -> float:
    """Bytes of arrays in the main memory."""
    return float(sum(array.bytes for array in arrays if not array.space))


_SLICES = ("dynamic-slice", "slice", "gather")  # which read what they give


def _read(one: Instruction, table: Table) -> Iterator[float]:
    opcode = one.opcode.removesuffix("-start")
    if opcode in _SLICES:
        # What starts has its operand in its result too, and the slice is smaller.
        yield float(min((array.bytes for array in one.arrays if array.sizes), default=0))
        return
    start = 1 if opcode in ("dynamic-update-slice", "scatter") else 0  # in place
    for name in one.operands[start:]:
        if name in table:
            yield _main(table[name].arrays)


def _written(one: Instruction, table: Table) -> float:
    if one.opcode in ("dynamic-update-slice", "scatter") and len(one.operands) > 1:
        update = table.get(one.operands[1 if one.opcode == "dynamic-update-slice" else -1])
        return _main(update.arrays) if update else _main(one.arrays)
    if not one.opcode.endswith("-start"):
        return _main(one.arrays)
    if one.opcode == "copy-start":  # (to, from, …)
        return _main(one.arrays[:1])
    if one.opcode.removesuffix("-start") in KINDS:
        return _main(results(one))
    arrays = [array for array in one.arrays if array.sizes]
    if one.opcode.removesuffix("-start") in _SLICES:
        return _main([min(arrays, key=lambda array: array.bytes)]) if arrays else 0.0
    return max((_main([array]) for array in arrays), default=0.0)
