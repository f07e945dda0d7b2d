"""What a compiled program does and how often, from XLA's text of it.

`cost_analysis` of JAX counts the body of a loop once. Here it counts as often as the loop turns,
where that is known while compiling (a scan over layers). Of a conditional all branches count.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterator

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_CALLS = "calls|body|condition|to_apply|branch_computations|called_computations"
_CALLED = re.compile(rf"\b(?:{_CALLS})=(\{{[^}}]*\}}|%?[\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name: of its result.
      shapes: (format, sizes) of its result, of each part if it has several.
      opcode: what it does.
      operands: names of what it takes.
      rest: its attributes.
    """

    name: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @property
    def sizes(self) -> list[int]:
        """Bytes of each part of its result."""
        return [math.prod(sizes) * BYTES.get(kind, 4) for kind, sizes in self.shapes]


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, each a table of its instructions."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @staticmethod
    def parse(text: str) -> "Program":
        """A program from XLA's text, as `compiled.as_text()` or a dump gives it."""
        computations: dict[str, dict[str, Instruction]] = {}
        entry, name = "", ""
        for line in text.splitlines():
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
                name = header[2]
                computations[name] = {}
                entry = name if header[1] else entry
            elif name and (one := _instruction(line)):
                computations[name][one.name] = one
        return Program(computations, entry)

    def walk(
        self, name: str = "", times: int = 1, loop: str = ""
    ) -> Iterator[tuple[str, int, Instruction, dict[str, Instruction]]]:
        """Every instruction that runs.

        Yields:
          the outermost loop around it whose turns are unknown ("": none), how often it runs (in a
          turn of such loops), the instruction, and the table of its computation.
        """
        table = self.computations[name or self.entry]
        for one in table.values():
            yield loop, times, one, table
            turns, inside = 1, loop
            if one.opcode == "while":
                turns = self._turns(one)
                inside = loop if turns or loop else one.name
            for called in _CALLED.findall(one.rest):
                for callee in re.findall(r"[\w.\-]+", called):
                    yield from self.walk(callee, times * max(turns, 1), inside)

    def _turns(self, loop: Instruction) -> int:
        """How often a loop turns; 0 = unknown while compiling."""
        if known := re.search(r'known_trip_count[^}]*"n":"(\d+)"', loop.rest):
            return int(known[1])
        # A counter from 0 on: `counter < limit` in the condition, `counter + step` in the body.
        condition, body = (
            self.computations[re.search(rf"{part}=%?([\w.\-]+)", loop.rest)[1]]  # pyright: ignore
            for part in ("condition", "body")
        )
        (*_, test), (*_, result) = condition.values(), body.values()
        if test.opcode != "compare" or "direction=LT" not in test.rest:
            return 0
        counter, limit = (condition[name] for name in test.operands)
        place = re.match(r", index=(\d+)", counter.rest)
        if limit.opcode != "constant" or not place:
            return 0
        step = body[body[result.operands[int(place[1])]].operands[-1]]
        return -(-_value(limit) // _value(step)) if step.opcode == "constant" else 0


def _value(constant: Instruction) -> int:
    return int(constant.rest.removeprefix("constant(").removesuffix(")"))


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    # Formats such as T(8,128) stand in the type too; only an operation begins in lower case.
    operation = re.compile(r" ([a-z][\w\-]*)\(").search(line, head.end() - 1)
    if not operation:
        return None
    shapes = tuple(
        (kind, tuple(map(int, filter(None, sizes.split(",")))))
        for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", line[head.end() : operation.start()])
    )
    arguments, _, rest = line[operation.end() :].partition(")")
    if operation[1] == "constant":
        rest = f"constant({arguments})"
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(head[1], shapes, operation[1], operands, rest)


def products(program: Program) -> dict[str, float]:
    """Loop ("": outside) -> floating-point operations of its matrix products, 2 per product."""
    total: dict[str, float] = defaultdict(float)
    for loop, times, one, table in program.walk():
        if one.opcode == "dot":
            total[loop] += times * _dot(one, table)
        elif one.opcode == "convolution":  # what a TPU makes of a dot
            total[loop] += times * _convolution(one, table)
    return dict(total)


def _dot(one: Instruction, table: dict[str, Instruction]) -> float:
    sizes = table[one.operands[0]].shapes[0][1]
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    axes = map(int, filter(None, found[1].split(","))) if found else ()
    return 2 * math.prod(one.shapes[0][1]) * math.prod(sizes[axis] for axis in axes)


def _convolution(one: Instruction, table: dict[str, Instruction]) -> float:
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert found, one.rest
    left, right, out = found.groups()
    left_sizes, right_sizes = (table[operand].shapes[0][1] for operand in one.operands)
    out_sizes = one.shapes[0][1]
    count = 2.0 * out_sizes[out.index("b")] * out_sizes[out.index("f")]
    count *= right_sizes[right.index("i")]
    window = dict(re.findall(r"(\w+)=([^ }]+)", one.rest.partition("window={")[2].split("}")[0]))

    def of(key: str, axis: int, default: str) -> str:
        return window[key].split("x")[axis] if key in window else default

    # Batches of a dot are axes of a window that meets one entry of the other side.
    for axis in range(len(left) - 2):
        name = str(axis)
        size, taps, places = (
            sizes[labels.index(name)]
            for sizes, labels in ((left_sizes, left), (right_sizes, right), (out_sizes, out))
        )
        stride, dilate, spread = (
            int(of(key, axis, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(of("pad", axis, "0_0").split("_")[0])
        met = (
            place * stride + tap * spread - low
            for place, tap in itertools.product(range(places), range(taps))
        )
        count *= sum(0 <= at <= (size - 1) * dilate and at % dilate == 0 for at in met)
    return count


def collectives(program: Program) -> dict[str, dict[str, tuple[int, int]]]:
    """Loop ("": outside) -> kind -> how many, and bytes of results on each device."""
    total: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for loop, times, one, _ in program.walk():
        kind = one.opcode.removesuffix("-start")
        goes_on = '"flag_start":' in one.rest and '"flag_start":"-1"' not in one.rest
        if kind not in COLLECTIVES or goes_on:  # a TPU works on in one that it has started
            continue
        # What starts has its operand in its result too.
        size = sum(one.sizes) if kind == one.opcode else max(one.sizes)
        count, moved = total[loop].get(kind, (0, 0))
        total[loop][kind] = (count + times, moved + times * size)
    return dict(total)


def copies(program: Program) -> dict[str, int]:
    """Loop ("": outside) -> bytes of arrays that are written again in another order."""
    total: dict[str, int] = defaultdict(int)
    for loop, times, one, _ in program.walk():
        if one.opcode == "copy":
            total[loop] += times * sum(one.sizes)
    return dict(total)
