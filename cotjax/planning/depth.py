"""A deep sampler from two shallow ones: what a layer adds is the same for every layer.

Decoding has its layers one after the other in the program, and a compiler for TPUs takes seconds
for each. What it needs, computes and sends grows by the same for every further layer, so that two
depths say what any depth does. An update loops over its layers and is compiled whole.

So is a sampler of which a TPU's fast memory (VMEM) holds the shallow layers: what the compiler
keeps there is read once and not in every turn, and of a deep one it can keep no more.
"""

import dataclasses
import functools
from typing import Any

from cotjax.config import Config
from cotjax.interfaces import Program
from cotjax.models.architecture import Architecture
from cotjax.models.lora import split_adapter
from cotjax.planning.collectives import MeshShape, Traffic
from cotjax.planning.compiling import Compiled, arguments_of, compile_program
from cotjax.planning.cost import Cost
from cotjax.planning.estimate import estimate_program
from cotjax.planning.opening import opened

SHALLOW = 8  # layers; no more are compiled whole
VMEM = 128 * 2**20  # bytes, of a v5e; other chips are taken to have as much


class Compiler:
    """Compiles the programs of a stage, deep samplers at two depths.

    Args:
      config: of the stage.
      mesh: of a topology's devices.
      island: devices that fast links join; 0 = all.
      dumped: see `compile_program`.
      exact: compile every layer of samplers too.
      estimate: compile nothing, see `estimate`.
    """

    def __init__(
        self,
        config: Config,
        mesh: Any,
        *,
        island: int,
        dumped: bool,
        exact: bool,
        estimate: bool = False,
    ) -> None:
        self._config, self._mesh, self._exact, self._estimate = config, mesh, exact, estimate
        self._island, self._dumped = island, dumped
        self._shallow = functools.cache(self._programs)

    def __call__(self, program: Program) -> Compiled:
        """The program, compiled."""
        deep = None if self._exact else _sampler(program)
        depths = depths_of(deep) if deep else None
        if deep is None or depths is None:
            return self._compile(program)
        shallow, deeper = (self._shallow(depth)[program.name] for depth in depths)
        held = arguments_of(shallow), arguments_of(deeper)
        if self._dumped and kept_fast(*held, depths):
            return self._compile(program)
        one, other = self._compile(shallow), self._compile(deeper)
        whole = extended(one, other, depths, deep.num_layers)
        return dataclasses.replace(whole, program=program)

    def _compile(self, program: Program) -> Compiled:
        mesh = program.args[0].placement.mesh if samples(program) else self._mesh
        shape = MeshShape(dict(mesh.shape), self._island)
        if self._estimate:
            return estimate_program(program, shape)
        return compile_program(program, shape, dumped=self._dumped)

    def _programs(self, layers: int) -> dict[str, Program]:
        """By name the last, as `steps.usual_programs` takes them."""
        with opened(self._config, self._mesh, layers=layers) as stage:
            return {program.name: program for program in stage.programs()}


def samples(program: Program) -> bool:
    """Whether a program decodes, on a mesh that may be another than the stage's."""
    return "settings" in program.kwargs and hasattr(program.args[0], "own_caches")


def _sampler(program: Program) -> Architecture | None:
    """The decoder that a program samples with; None if it does not."""
    if not samples(program):
        return None
    policy, params = program.args[:2]
    return policy.bind(split_adapter(params)[1]).shape


def depths_of(shape: Architecture) -> tuple[int, int] | None:
    """The depths to compile in place of a decoder's own; None: its own.

    Both hold the kinds of layers in the share in which the whole has them, where it repeats them.
    """
    kinds = shape.kinds
    periods = range(1, len(kinds))
    period = next((n for n in periods if kinds[n:] == kinds[:-n]), len(kinds))
    first = max(2, period)
    if shape.num_layers <= max(SHALLOW, 2 * first):
        return None
    return first, 2 * first


def kept_fast(one: int, other: int, depths: tuple[int, int]) -> bool:
    """Whether a TPU's fast memory may hold all layers of the shallower of two programs.

    Args:
      one: bytes of the arguments of that with fewer layers.
      other: of that with more.
      depths: their layers.
    """
    layer = (other - one) / (depths[1] - depths[0])
    return layer * depths[0] < VMEM


def extended(one: Compiled, other: Compiled, depths: tuple[int, int], whole: int) -> Compiled:
    """A program of many layers, from two of few.

    Args:
      one: of the fewer layers.
      other: of the more.
      depths: their layers.
      whole: layers.
    """
    steps = (whole - depths[1]) / (depths[1] - depths[0])

    def line(a: float, b: float) -> float:
        return max(b + steps * (b - a), 0.0)

    sizes = {
        name: int(line(getattr(one, name), getattr(other, name)))
        for name in ("arguments", "outputs", "reused", "temporary")
    }
    if one.refused or other.refused:
        return dataclasses.replace(other, refused=True, **sizes)
    cost = _cost(one.cost.outside, other.cost.outside, line)
    loop = _cost(one.cost.longest, other.cost.longest, line)
    cost = dataclasses.replace(cost, loops={"decode": loop})
    return dataclasses.replace(other, cost=cost, seconds=one.seconds + other.seconds, **sizes)


def _cost(one: Cost, other: Cost, line: Any) -> Cost:
    none = Traffic(0, 0, 0)
    moved = {}
    for key in {**one.moved, **other.moved}:
        a, b = one.moved.get(key, none), other.moved.get(key, none)
        moved[key] = Traffic(line(a.count, b.count), line(a.bytes, b.bytes), line(a.sent, b.sent))
    return Cost(
        flops=line(one.flops, other.flops),
        hbm=line(one.hbm, other.hbm),
        copies=line(one.copies, other.copies),
        moved=moved,
    )
