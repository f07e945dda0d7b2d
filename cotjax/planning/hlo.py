"""A compiled program, from XLA's text of it: computations, instructions, and turns of loops."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

# Bytes of a number; formats that are not here have 4.
_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
    **dict.fromkeys(("token", "opaque"), 0),
}
_CALLS = "calls|to_apply|branch_computations|true_computation|false_computation"
_CALLED = re.compile(rf"\b(?:{_CALLS}|called_computations)=(\{{[^}}]*\}}|%?[\w.\-]+)")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """One array of a program.

    Attributes:
      kind: number format, "bf16".
      sizes: of its axes.
      space: of the memory that holds it; 0 is the device's main memory.
    """

    kind: str
    sizes: tuple[int, ...]
    space: int = 0

    @property
    def bytes(self) -> int:
        """Of all its numbers."""
        return math.prod(self.sizes) * _BYTES.get(self.kind, 4)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name: of its result.
      arrays: its result, or the parts of it.
      opcode: what it does.
      operands: names of what it takes.
      rest: its attributes; of a constant and a parameter, what stands in their brackets.
      root: whether it gives the result of its computation.
    """

    name: str
    arrays: tuple[ArrayType, ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool = False

    @property
    def called(self) -> list[str]:
        """Computations that it calls once, or one of which; not those of a loop."""
        return [
            name for group in _CALLED.findall(self.rest) for name in re.findall(r"[\w.\-]+", group)
        ]

    def attribute(self, name: str) -> str:
        """The computation behind an attribute of that name.

        Raises:
          KeyError: it has none.
        """
        if found := re.search(rf"\b{name}=%?([\w.\-]+)", self.rest):
            return found[1]
        raise KeyError(name)


Table = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class HloModule:
    """Computations by name, each a table of its instructions in order."""

    computations: Mapping[str, Table]
    entry: str

    @staticmethod
    def parse(text: str) -> "HloModule":
        """A program from XLA's text, as `compiled.as_text()` or a dump gives it.

        Raises:
          ValueError: there is no program in it.
        """
        computations: dict[str, dict[str, Instruction]] = {}
        types: dict[str, str] = {}
        entry, name = "", ""
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                name = header[2]
                computations[name], types = {}, {}
                entry = name if header[1] else entry
            elif name and (found := _instruction(line)):
                types[found[0].name] = found[1]
                table = computations[name]
                table |= _elements(found[0].operands, types, table)
                table[found[0].name] = found[0]
        if not entry:
            raise ValueError("the text holds no ENTRY computation")
        return HloModule(computations, entry)

    def root(self, name: str) -> Instruction:
        """The instruction that gives a computation's result."""
        table = self.computations[name]
        return next((one for one in table.values() if one.root), [*table.values()][-1])

    def instructions(self) -> Iterator[Instruction]:
        """All of them, each once."""
        for table in self.computations.values():
            yield from table.values()

    def turns(self, loop: Instruction) -> int:
        """How often a loop turns; 0 = not known while compiling."""
        if known := re.search(r'known_trip_count[^}]*"n":"(\d+)"', loop.rest):
            return int(known[1])
        # A counter from 0 on: `counter < limit` in the condition, `counter + step` in the body.
        condition = self.computations[loop.attribute("condition")]
        test = self.root(loop.attribute("condition"))
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return 0
        counter, limit = (condition[name] for name in test.operands)
        place = re.match(r", index=(\d+)", counter.rest)
        if limit.opcode != "constant" or not place:
            return 0
        body = self.computations[loop.attribute("body")]
        result = self.root(loop.attribute("body"))
        grown = body[result.operands[int(place[1])]]
        step = body[grown.operands[-1]] if grown.opcode == "add" else grown
        return -(-_value(limit) // _value(step)) if step.opcode == "constant" else 0


def _value(constant: Instruction) -> int:
    return int(constant.rest)


_HEAD = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
# Formats such as T(8,128) stand in the type too; only an operation begins in lower case.
_OPERATION = re.compile(r" ([a-z][\w\-]*)\(")


def _instruction(line: str) -> tuple[Instruction, str] | None:
    """A line's instruction, and the text of its type."""
    head = _HEAD.match(line)
    operation = _OPERATION.search(line, head.end() - 1) if head else None
    if not head or not operation:
        return None
    arguments, _, rest = line[operation.end() :].partition(")")
    if operation[1] in ("constant", "parameter"):
        rest = arguments
    kind = line[head.end() : operation.start()]
    one = Instruction(
        name=head[2],
        arrays=_arrays(kind),
        opcode=operation[1],
        operands=tuple(re.findall(r"%([\w.\-]+(?:#\d+)?)", arguments)),
        rest=rest,
        root=bool(head[1]),
    )
    return one, kind


def _elements(
    operands: tuple[str, ...], types: Mapping[str, str], table: Table
) -> dict[str, Instruction]:
    """Instructions for operands such as `whole#1`, as JAX 0.12 writes an element of a tuple."""
    found = {}
    for name in operands:
        whole, _, place = name.partition("#")
        if place and name not in table and whole in types:
            arrays = _arrays(_parts(types[whole])[int(place)])
            found[name] = Instruction(
                name, arrays, "get-tuple-element", (whole,), f", index={place}"
            )
    return found


@functools.lru_cache(2**10)
def _parts(kind: str) -> tuple[str, ...]:
    """The texts of the types that a tuple's type is of."""
    depth, parts = 0, [""]
    for sign in re.sub(r"/\*.*?\*/", "", kind.strip())[1:-1]:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return tuple(parts)


@functools.lru_cache(2**14)
def _arrays(text: str) -> tuple[ArrayType, ...]:
    found = []
    for kind, sizes, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        shape = tuple(map(int, filter(None, sizes.split(","))))
        found.append(ArrayType(kind, shape, int(space[1]) if space else 0))
    return tuple(found)
