"""What a program does and needs, counted from its equations: nothing is compiled.

A plan of all programs takes a compiler for TPUs many minutes; this takes seconds and says about
the same. JAX traces the program, and of its equations

    operations       those of matrix products, a loop's as often as it turns, shared by all devices
    memory traffic   what products read and write, and an optimizer's state; all else is taken to
                     be computed where it is read
    collectives      parameters gathered over `fsdp` once in each layer that uses them, gradients
                     summed over it and then over the copies, partial sums over `tensor`;
                     parameters that are laid out for sampling, what a device lacks of them
    temporaries      twice the largest result of a product, and twice a layer's gathered parameters;
                     parameters that products read in a narrower format, which a compiler rounds
                     before the loop over layers

Where a compiler sums elsewhere, gathers twice or copies, it differs.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from cotjax.interfaces import Program, TrainState
from cotjax.parallel.sharding import spec_of
from cotjax.planning.collectives import MeshShape, Traffic, over_axis
from cotjax.planning.compiling import Compiled, bytes_of
from cotjax.planning.cost import Cost

# Whose products are partial sums where `tensor` splits a layer, by the axis that they sum over:
# forward 0, backward 1, where query, key and value (gate and up) are added first.
_PARTIAL = {0: ("out", "down"), 1: ("query", "gate")}


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A parameter, or what was made of parameters alone.

    Attributes:
      name: path in the tree.
      split: axes of the mesh over which it lies.
      width: bytes of a number, the fewest that it had.
      level: of the loop whose turns each have another part of it; 0 where it is the same in all.
    """

    name: str
    split: frozenset[str]
    width: int
    level: int = 0


_Weights = dict[Any, _Weight]


def estimate_program(program: Program, mesh: MeshShape) -> Compiled:
    """The cost of a program and the memory that it needs beside what is named of it elsewhere.

    Args:
      program: whose arguments lie on a mesh.
      mesh: its shape.
    """
    began = time.perf_counter()
    traced = program.function.trace(*program.args, **program.kwargs)
    walk = _Walk(mesh, gathers="settings" not in program.kwargs)
    weights = _weights(program, traced.jaxpr.jaxpr.invars)
    cost, _ = walk.turn(traced.jaxpr.jaxpr, weights, mesh.size)
    cost += _of_state(program, mesh)
    if program.name.endswith(": parameters"):
        cost += _of_layout(program, traced.out_info, mesh)
    seconds = time.perf_counter() - began
    temporary = int(2 * walk.largest + 2 * walk.gathered) + _rounded(program, walk.widths)
    return Compiled(program, 0, 0, 0, temporary, cost, seconds, estimated=True)


def _weights(program: Program, inputs: Sequence[Any]) -> _Weights:
    """The inputs of a traced program that are parameters of a model."""
    leaves = jax.tree_util.tree_leaves_with_path((program.args, dict(program.kwargs)))
    shaped = [(path, leaf) for path, leaf in leaves if hasattr(leaf, "dtype")]
    found: _Weights = {}
    if len(shaped) != len(inputs):  # a user's own program, which may take numbers
        return found
    for (path, leaf), own in zip(shaped, inputs, strict=True):
        name = _name(path)
        try:
            axes = [axis for axis in spec_of(name) if axis]
        except KeyError:
            continue
        found[own] = _Weight(name, frozenset(map(str, axes)), leaf.dtype.itemsize)
    return found


def _name(path: Sequence[Any]) -> str:
    """The name of a parameter, from its path in a program's arguments."""
    return ".".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def _rounded(program: Program, widths: Mapping[str, int]) -> int:
    """Bytes on a device of copies of parameters in the formats in which they are multiplied."""
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path((program.args, dict(program.kwargs))):
        if not hasattr(leaf, "dtype"):
            continue
        name = _name(path)
        width = _width(leaf)
        if (narrow := widths.get(name, width)) < width:
            found += bytes_of(leaf) // width * narrow
    return found


def _of_state(program: Program, mesh: MeshShape) -> Cost:
    """An optimizer reads and writes its state once, and sums each micro-batch's gradients."""
    state = program.args[0] if program.args else None
    if not isinstance(state, TrainState):
        return Cost()
    parameters = jax.tree.leaves(state.params)
    held = sum(map(bytes_of, jax.tree.leaves((state.params, state.opt_state))))
    micros = program.args[2] if len(program.args) > 2 else ()
    turns = len(micros) if isinstance(micros, tuple | list) else 1
    gradients = sum(map(bytes_of, parameters))
    count = turns * len(parameters)
    moved = [
        over_axis(kind, axis, turns * gradients, mesh, count)
        for kind, axis in (
            *(("reduce-scatter", "fsdp"), ("all-reduce", "data")),
            ("all-reduce", "replica"),
        )
    ]
    return Cost(hbm=2.0 * held + 2.0 * gradients * turns, moved=_added(moved))


def _of_layout(program: Program, outputs: Any, mesh: MeshShape) -> Cost:
    """A program that lays parameters out reads its parts, gets the others, and writes them."""
    given, placed = jax.tree.leaves(program.args), jax.tree.leaves(outputs)
    pairs = list(zip(given, placed, strict=True))
    read, written = sum(bytes_of(one) for one, _ in pairs), sum(map(bytes_of, placed))
    # They are rounded before they are sent.
    own = [bytes_of(one) // one.dtype.itemsize * to.dtype.itemsize for one, to in pairs]
    lacks = [max(bytes_of(to) - had, 0) for had, (_, to) in zip(own, pairs, strict=True)]
    size = sum(bytes_of(to) for less, (_, to) in zip(lacks, pairs, strict=True) if less)
    moved = _added([over_axis("all-gather", "fsdp", size, mesh, sum(map(bool, lacks)))])
    moved = {key: dataclasses.replace(one, sent=float(sum(lacks))) for key, one in moved.items()}
    return Cost(hbm=float(read + written), moved=moved)


def _added(moved: Sequence[tuple[tuple[str, str], Traffic] | None]) -> dict[Any, Traffic]:
    found: dict[Any, Traffic] = {}
    for key, traffic in filter(None, moved):
        found[key] = found[key] + traffic if key in found else traffic
    return found


class _Walk:
    """Goes through the equations of a program and of all that it calls.

    Args:
      mesh: over whose devices work is shared.
      gathers: whether parameters are gathered where they are used; samplers hold them whole.

    Attributes:
      largest: bytes on a device of the largest result of a product.
      gathered: bytes on a device of the parameters that one layer gathers.
      widths: bytes of a number of each parameter as products read it.
    """

    def __init__(self, mesh: MeshShape, *, gathers: bool) -> None:
        self._mesh, self._gathers = mesh, gathers
        self.largest = self.gathered = 0.0
        self.widths: dict[str, int] = {}
        self._used: list[dict[str, float]] = []  # bytes of what each level's turn gathers

    def turn(self, jaxpr: Any, weights: _Weights, parts: int) -> tuple[Cost, list[_Weight | None]]:
        """`of` for a turn of a loop or a whole program, which gathers what it uses once."""
        self._used.append({})
        cost, outputs = self.of(jaxpr, weights, parts)
        used = self._used.pop().values()
        self.gathered = max(self.gathered, sum(used))
        moved = _added([over_axis("all-gather", "fsdp", size, self._mesh) for size in used])
        return cost + Cost(moved=moved), outputs

    def of(
        self, jaxpr: Any, weights: _Weights, parts: int, wanted: Sequence[bool] = ()
    ) -> tuple[Cost, list[_Weight | None]]:
        """(cost on one device, which outputs are parameters).

        Args:
          jaxpr: equations.
          weights: inputs that are parameters.
          parts: devices that share what is no parameter; 1 where shapes are those of a device.
          wanted: whether each output is; all are if it is empty. A compiler drops what only others
            need.
        """
        weights = dict(weights)
        narrow: dict[Any, int] = {}
        total = Cost()
        for equation, needed in _live(jaxpr, wanted):
            total += self._one(equation, weights, narrow, parts, needed)
        return total, [_of(weights, one) for one in jaxpr.outvars]

    def _one(
        self,
        one: Any,
        weights: _Weights,
        narrow: dict[Any, int],
        parts: int,
        needed: Sequence[bool],
    ) -> Cost:
        name = one.primitive.name
        if name == "dot_general":
            self._passed_on(one, weights)
            return self._product(one, weights, narrow, parts)
        if name == "while":
            return self._loop(one, weights, parts)
        if name == "cond":
            own = [self._called(one, branch, one.invars[1:], weights, parts)
                   for branch in one.params["branches"]]  # fmt: skip
            return max(own, key=lambda cost: (cost.flops, cost.hbm))
        if name == "pallas_call":  # a kernel reads and writes the main memory once
            arrays = [each.aval for each in (*one.invars, *one.outvars)]
            return Cost(hbm=sum(map(_size, arrays)) / parts)
        inner = next((one.params[key] for key in _INNER if key in one.params), None)
        if inner is None:
            self._passed_on(one, weights)
            if name == "convert_element_type" and one.invars[0] not in weights:
                narrow[one.outvars[0]] = _width(one.invars[0].aval)
            return Cost()
        if name == "scan":
            return self._scan(one, weights, parts)
        if name == "shard_map":  # whose shapes are those of a device
            return self._called(one, inner, one.invars, weights, 1)
        return self._called(one, inner, one.invars, weights, parts, needed)

    def _called(
        self,
        one: Any,
        inner: Any,
        inputs: Sequence[Any],
        weights: _Weights,
        parts: int,
        wanted: Sequence[bool] = (),
    ) -> Cost:
        """The cost of what an equation calls; its outputs that are parameters are noted."""
        jaxpr = getattr(inner, "jaxpr", inner)
        cost, outputs = self.of(jaxpr, _given(jaxpr.invars, inputs, weights), parts, wanted)
        weights |= {to: weight for to, weight in zip(one.outvars, outputs, strict=False) if weight}
        return cost

    def _scan(self, one: Any, weights: _Weights, parts: int) -> Cost:
        """Of a loop over the first axis of arrays: constants, what turns hand on, and parts."""
        body = one.params["jaxpr"].jaxpr
        constants = one.params["num_consts"]
        first, level = constants + one.params["num_carry"], len(self._used)
        own = _given(body.invars[:constants], one.invars[:constants], weights)
        sliced = _given(body.invars[first:], one.invars[first:], weights)
        own |= {to: dataclasses.replace(one, level=level) for to, one in sliced.items()}
        cost, _ = self.turn(body, own, parts)
        return cost.times(one.params["length"])

    def _loop(self, one: Any, weights: _Weights, parts: int) -> Cost:
        """Of a loop whose end is not known, a turn."""
        first, count = one.params["cond_nconsts"], one.params["body_nconsts"]
        body, constants = one.params["body_jaxpr"].jaxpr, one.invars[first : first + count]
        turn, _ = self.turn(body, _given(body.invars, constants, weights), parts)
        whole = functools.reduce(Cost.__add__, turn.loops.values(), turn.outside)
        return Cost(loops={str(one.outvars[0]) + str(id(one)): whole})

    def _passed_on(self, one: Any, weights: _Weights) -> None:
        """What is made of parameters and scalars alone is a parameter still."""
        arrays = [each for each in one.invars if getattr(each.aval, "shape", ())]
        known = [_of(weights, each) for each in arrays]
        if arrays and all(known) and len(one.outvars) == 1:
            first = max((each for each in known if each), key=lambda each: len(each.split))
            width = min(first.width, _width(one.outvars[0].aval))
            weights[one.outvars[0]] = dataclasses.replace(first, width=width)

    def _product(self, one: Any, weights: _Weights, narrow: Mapping[Any, int], parts: int) -> Cost:
        (summed, _), _ = one.params["dimension_numbers"]
        left, right = one.invars
        result = one.outvars[0].aval
        length = math.prod(left.aval.shape[axis] for axis in summed)
        flops = 2.0 * math.prod(result.shape) * length / parts
        sizes = [self._operand(each, weights, narrow, parts) for each in (left, right)]
        written = _size(result) / parts
        self.largest = max(self.largest, written)
        moved = []
        for place, each in enumerate((left, right)):
            weight = _of(weights, each)
            if weight is None or one.outvars[0] in weights:
                continue
            if self._gathers and "fsdp" in weight.split and self._mesh.sizes["fsdp"] > 1:
                used = self._used[weight.level]
                used[weight.name] = max(used.get(weight.name, 0.0), sizes[place])
            axes = one.params["dimension_numbers"][0][place]
            moved.append(self._partial_sums(weight, each.aval, axes, written, parts))
        return Cost(flops=flops, hbm=sum(sizes) + written, moved=_added(moved))

    def _operand(self, one: Any, weights: _Weights, narrow: Mapping[Any, int], parts: int) -> float:
        """Bytes that a device reads of a factor."""
        weight, count = _of(weights, one), math.prod(one.aval.shape)
        if weight is not None:
            self.widths[weight.name] = min(weight.width, _width(one.aval))
        if weight is None:
            width = _width(one.aval) if isinstance(one, core.Literal) else narrow.get(one, 8)
            return count * min(width, _width(one.aval)) / parts
        split = self._mesh.sizes["tensor"] if "tensor" in weight.split and parts > 1 else 1
        return count * min(weight.width, _width(one.aval)) / split

    def _partial_sums(
        self, weight: _Weight, shape: Any, summed: Sequence[int], written: float, parts: int
    ) -> tuple[tuple[str, str], Traffic] | None:
        """What devices that split a layer exchange of a product with its parameters."""
        tensor, kind = self._mesh.sizes["tensor"], weight.name.split(".")
        if tensor == 1 or parts == 1 or len(summed) != 1:
            return None
        if kind[-1] in ("embedding", "unembed_weight"):  # each draws for whole rows
            own = not self._gathers
            return over_axis("all-to-all", "tensor", written, self._mesh, 1) if own else None
        place = summed[0] - (len(shape.shape) - 2)
        if kind[-1] != "kernel" or kind[-2] not in _PARTIAL.get(place, ()):
            return None
        return over_axis("all-reduce", "tensor", written * tensor, self._mesh, 1)


def _live(jaxpr: Any, wanted: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
    """The equations behind the outputs that are wanted, each with which of its own are needed."""
    outputs = jaxpr.outvars
    kept = zip(outputs, wanted, strict=True) if wanted else ((one, True) for one in outputs)
    live = {one for one, own in kept if own and not isinstance(one, core.Literal)}
    found: list[tuple[Any, list[bool]]] = []
    for equation in reversed(jaxpr.eqns):
        needed = [one in live for one in equation.outvars]
        if any(needed) or equation.effects:
            found.append((equation, needed))
            live |= {one for one in equation.invars if not isinstance(one, core.Literal)}
    return found[::-1]


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def _given(inner: Sequence[Any], outer: Sequence[Any], weights: _Weights) -> _Weights:
    """The parameters among what is handed to a body, by the names that it has there."""
    pairs = zip(inner, outer, strict=False)
    return {to: weight for to, given in pairs if (weight := _of(weights, given))}


def _of(weights: _Weights, one: Any) -> _Weight | None:
    return None if isinstance(one, core.Literal) else weights.get(one)


def _width(shape: Any) -> int:
    """Bytes of a number; a random key counts none."""
    return getattr(getattr(shape, "dtype", np.dtype("int32")), "itemsize", 0)


def _size(shape: Any) -> float:
    """Bytes of a whole array."""
    return float(math.prod(getattr(shape, "shape", ())) * _width(shape))
