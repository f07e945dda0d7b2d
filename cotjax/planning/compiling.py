"""Programs compiled for a topology: their memory as the compiler plans it, and their cost."""

import dataclasses
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from cotjax.interfaces import Program
from cotjax.planning.collectives import MeshShape
from cotjax.planning.cost import Cost, count
from cotjax.planning.hlo import HloModule

# How XLA says what it needed where it refuses a program: temporaries, or all with its arguments.
_NEEDED = re.compile(r"(total memory required[^(]*\(|Used )([\d.]+)([KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program on one device.

    Attributes:
      program: that was compiled.
      arguments: bytes of what it takes; 0 if it was refused for its temporaries alone.
      outputs: bytes of what it gives.
      reused: bytes of outputs that lie where arguments lay.
      temporary: bytes that it needs beside them.
      cost: of one call; of a refused program nothing.
      seconds: that compiling took.
      refused: whether the compiler found that it does not fit.
      estimated: whether nothing was compiled; `temporary` is then beside caches, gradients and
        activations, and `arguments`, `outputs` and `reused` are 0.
    """

    program: Program
    arguments: int
    outputs: int
    reused: int
    temporary: int
    cost: Cost
    seconds: float
    refused: bool = False
    estimated: bool = False


def on_devices(program: Program) -> bool:
    """Whether a program's arguments lie on the mesh; others compute a few numbers of the host."""
    return any(
        getattr(leaf, "sharding", None) is not None
        for leaf in jax.tree.leaves((program.args, dict(program.kwargs)))
        if isinstance(leaf, jax.ShapeDtypeStruct)
    )


def compile_program(program: Program, mesh: MeshShape, *, dumped: bool) -> Compiled:
    """Compiles one program, and counts what it does.

    Args:
      program: whose arguments lie on a mesh.
      mesh: its shape.
      dumped: read the program from the compiler's own dump: jaxlib cannot print every instruction
        of a newer libtpu.

    Raises:
      jax.errors.JaxRuntimeError: it cannot be compiled for a reason other than its memory.
    """
    began = time.perf_counter()
    lowered = program.function.lower(*program.args, **program.kwargs)
    try:
        compiled, text = compiled_text(lowered, dumped=dumped)
    except jax.errors.JaxRuntimeError as error:
        needed = _NEEDED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        size = int(float(needed[2]) * _UNITS[needed[3]])
        given = arguments_of(program) if needed[1] == "Used " else 0
        seconds = time.perf_counter() - began
        return Compiled(program, given, 0, 0, max(size - given, 0), Cost(), seconds, refused=True)
    memory = compiled.memory_analysis()
    return Compiled(
        program,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        count(HloModule.parse(text), mesh),
        time.perf_counter() - began,
    )


def compiled_text(lowered: Any, *, dumped: bool) -> tuple[Any, str]:
    """A program compiled, and XLA's text of it.

    Args:
      lowered: of `jax.jit`.
      dumped: see `compile_program`.
    """
    if not dumped:
        compiled = lowered.compile()
        return compiled, compiled.as_text()
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder})
        (text,) = Path(folder).glob("*after_optimizations.txt")
        return compiled, text.read_text()


def arguments_of(program: Program) -> int:
    """Bytes of a program's arguments on one device."""
    leaves = jax.tree.leaves((program.args, dict(program.kwargs)))
    return sum(bytes_of(leaf) for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct))


def bytes_of(leaf: Any) -> int:
    """Bytes of an array, or of its shape, on one device."""
    shape = leaf.shape
    if getattr(leaf, "sharding", None) is not None:
        shape = leaf.sharding.shard_shape(shape)
    try:
        size = leaf.dtype.itemsize
    except (AttributeError, TypeError):  # a random key's
        size = 8
    return math.prod(shape) * size
