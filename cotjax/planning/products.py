"""Floating-point operations of an instruction: matrix products, and kernels that say theirs."""

import itertools
import math
import re

from cotjax.planning.hlo import Instruction, Table


def operations(one: Instruction, table: Table) -> float:
    """Operations of one instruction, two per multiplication and addition; 0 if it is no product.

    Args:
      one: the instruction.
      table: of its computation, with its operands.
    """
    if one.opcode == "dot":
        return _dot(one, table)
    if one.opcode == "convolution":  # what a TPU makes of a dot
        return _convolution(one, table)
    if one.opcode == "custom-call":
        return _kernel(one)
    return 0.0


def _dot(one: Instruction, table: Table) -> float:
    sizes = table[one.operands[0]].arrays[0].sizes
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.rest)
    axes = map(int, filter(None, found[1].split(","))) if found else ()
    return 2.0 * math.prod(one.arrays[0].sizes) * math.prod(sizes[axis] for axis in axes)


def _kernel(one: Instruction) -> float:
    """What a kernel's author says, as Pallas passes it on."""
    said = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', one.rest)
    return float(said[1]) if said else 0.0


def _convolution(one: Instruction, table: Table) -> float:
    found = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    assert found, one.rest
    left, right, out = found.groups()
    left_sizes, right_sizes = (table[operand].arrays[0].sizes for operand in one.operands[:2])
    out_sizes = one.arrays[0].sizes
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
