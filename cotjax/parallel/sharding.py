"""Which array is split over which axis of the mesh: one table, and the functions that apply it.

Arrays are placed here and nowhere else; `jax.jit` carries the placement through a step. What
crosses devices is then: parameters gathered over `fsdp` where they are used, their gradients
summed back into the same parts, a partial sum per tensor-split product, and one sum and one count
per metric.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.errors import InputError
from cotjax.interfaces import Placement
from cotjax.parallel.in_turn import in_turn
from cotjax.parallel.mesh import BATCH_AXES

BATCH = P(BATCH_AXES)  # the first axis of everything that is per example

# Parameters by name, the first match counts; layers are stacked on a leading axis, never split.
RULES: Sequence[tuple[str, P]] = (
    (r"embed\.embedding|unembed_weight", P("tensor", "fsdp")),  # [V, D]
    (r"layers\.(query|key|value|gate|up)\.kernel", P(None, "fsdp", "tensor")),  # [L, in, out]
    (r"layers\.(out|down)\.kernel", P(None, "tensor", "fsdp")),  # [L, in, out]
    (r"layers\.(query|key|value)\.bias", P(None, "tensor")),  # [L, out]
    (r"layers\.(query|key|value|gate|up)\.lora_a", P(None, "fsdp", None)),  # [L, in, r]
    (r"layers\.(query|key|value|gate|up)\.lora_b", P(None, None, "tensor")),  # [L, r, out]
    (r"layers\.(out|down)\.lora_a", P(None, "tensor", None)),
    (r"layers\.(out|down)\.lora_b", P(None, None, "fsdp")),
    (r".*(norm|_norm)\.scale", P()),
)


def spec_of(name: str) -> P:
    """How a parameter is split.

    Args:
      name: its path in the tree, joined by dots.

    Raises:
      KeyError: no rule names it; a new kind of parameter needs a line in `RULES`.
    """
    for pattern, spec in RULES:
        if re.fullmatch(pattern, name):
            return spec
    raise KeyError(f"no rule says how {name} is split; add one to RULES.")


def param_shardings(mesh: Mesh, params: Any, *, samples: bool = False) -> Any:
    """The sharding of every parameter, from its name.

    Args:
      mesh: with the axes of `mesh.AXES`.
      params: nested dicts of arrays or of their shapes.
      samples: whether the mesh is that of `mesh.rollout`.

    Raises:
      InputError: a parameter that the mesh cannot split evenly.
    """

    def one(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        spec = spec_of(name)
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                key = f"rollout: {axis}" if samples else axis
                raise InputError(
                    f"mesh.{key} = {mesh.shape[axis]}: {name} has shape {tuple(leaf.shape)}, and "
                    f"{size} is not a multiple of it. Set mesh.{key} to a divisor of {size}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, params)


def check_heads(mesh: Mesh, num_heads: int, num_kv_heads: int, *, key: str = "mesh.tensor") -> None:
    """Refuses a mesh whose tensor axis would cut a head in two.

    Args:
      mesh: with the axis.
      num_heads: of queries.
      num_kv_heads: of keys and values.
      key: that sets the axis.

    Raises:
      InputError: names the heads and what would fit.
    """
    parts = mesh.shape["tensor"]
    if num_heads % parts or num_kv_heads % parts:
        both = np.gcd(num_heads, num_kv_heads)
        fits = ", ".join(str(n) for n in range(1, both + 1) if both % n == 0)
        raise InputError(
            f"{key} = {parts}: the model has {num_heads} query heads and {num_kv_heads} key "
            f"heads, which it does not divide. Set {key} to one of {fits}."
        )


def placement(
    mesh: Mesh, *, attention: Literal["dense", "flash", "cudnn"] | None = None
) -> Placement:
    """How a model's activations lie on the mesh.

    Args:
      mesh: the devices.
      attention: see `Placement`; None = "flash" on TPUs and "dense" elsewhere.
    """
    if attention is None:
        attention = "flash" if mesh.devices.flat[0].platform == "tpu" else "dense"
    return Placement(mesh, BATCH_AXES, "tensor", attention)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def batched(mesh: Mesh) -> NamedSharding:
    """Split by example."""
    return NamedSharding(mesh, BATCH)


def _place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    # Every process holds the whole array and gives its own devices their parts.
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def replicate(mesh: Mesh, tree: Any) -> Any:
    """A copy of every leaf on every device."""
    return jax.tree.map(lambda leaf: _place(leaf, replicated(mesh)), tree)


def shard(mesh: Mesh, tree: Any) -> Any:
    """[B, …] leaves, B split over the devices that share a batch."""
    return jax.tree.map(lambda leaf: _place(leaf, batched(mesh)), tree)


def placed_shape(sharding: NamedSharding, size: Sequence[int], dtype: Any) -> Any:
    """What stands for an array where none is needed: to compile, or to restore."""
    return jax.ShapeDtypeStruct(tuple(size), np.dtype(dtype), sharding=sharding)


def rollout_shardings(mesh: Mesh, params: Any, *, own: bool = False) -> Any:
    """Parameters as decoding wants them: whole but for the tensor axis.

    With `own` the mesh is that of `mesh.rollout`.
    """

    def whole(sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, P(*(None if axis == "fsdp" else axis for axis in sharding.spec)))

    return jax.tree.map(whole, param_shardings(mesh, params, samples=own))


def rollout_formats(params: Any, dtype: Any) -> Any:
    """The number format of each parameter while decoding.

    Matrices and biases in that of the activations, to which every use would round them; a norm's
    weight may count from 1 (Gemma), so it stays as it is.
    """

    def one(path: Any, leaf: Any) -> Any:
        norm = jax.tree_util.keystr(path, simple=True, separator=".").endswith("norm.scale")
        return leaf.dtype if norm else np.dtype(dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def for_rollout(mesh: Mesh, params: Any, dtype: Any, *, rollout: Mesh | None = None) -> Any:
    """The parameters as decoding wants them, laid out once.

    Decoding reads every parameter for every token; gathered over `fsdp` and rounded to the format
    of the activations once, they are read from the device's own memory and in that format. They go
    from device to device.

    Args:
      mesh: the devices.
      params: each split as its name says.
      dtype: number format of the activations.
      rollout: the mesh that samples; None: the same.
    """
    rollout = rollout or mesh
    layout = rollout_layout(mesh, params, dtype, rollout=rollout)
    params = layout.of(params)
    if same_devices(mesh, rollout):
        return params
    return jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), params, layout.shapes)


def same_devices(mesh: Mesh, other: Mesh) -> bool:
    """Whether one program can compute on both."""
    return bool(np.array_equal(mesh.devices.flatten(), other.devices.flatten()))


@dataclasses.dataclass(frozen=True)
class RolloutLayout:
    """What decoding wants of parameters; those that are right are taken as they are.

    Attributes:
      shapes: of all of them, as decoding takes them.
      program: of `jax.jit`: the parameters that change, to what they become; None if none does.
      changes: whether each one does, in the order of the leaves.
    """

    shapes: Any
    program: Callable[[list[Any]], list[Any]] | None
    changes: tuple[bool, ...]

    def changing(self, params: Any) -> list[Any]:
        """The arguments of the program: the parameters that change, or their shapes."""
        return [*itertools.compress(jax.tree.leaves(params), self.changes)]

    def of(self, params: Any) -> Any:
        """The parameters, laid out."""
        if self.program is None:
            return params
        leaves, structure = jax.tree.flatten(params)
        changed = iter(self.program(self.changing(params)))
        each = zip(leaves, self.changes, strict=True)
        return structure.unflatten(next(changed) if changes else leaf for leaf, changes in each)


def rollout_layout(
    mesh: Mesh, params: Any, dtype: Any, *, rollout: Mesh | None = None
) -> RolloutLayout:
    """How parameters are laid out for decoding.

    Args:
      mesh: the devices.
      params: see `for_rollout`; or their shapes.
      dtype: number format of the activations.
      rollout: see `for_rollout`. On other devices the program rounds alone: what is sent is small.
    """
    rollout = rollout or mesh
    formats = rollout_formats(params, dtype)
    goals = rollout_shardings(rollout, params, own=rollout is not mesh)
    shapes = jax.tree.map(lambda x, to, p: placed_shape(p, x.shape, to), params, formats, goals)
    stay = rollout is mesh and mesh.shape["fsdp"] == 1
    if not same_devices(mesh, rollout):
        stay, goals = True, param_shardings(mesh, params)

    def differs(leaf: Any, to: Any, place: NamedSharding) -> bool:
        return leaf.dtype != to or (not stay and leaf.sharding != place)

    changes = tuple(jax.tree.leaves(jax.tree.map(differs, params, formats, goals)))
    if not any(changes):
        return RolloutLayout(shapes if rollout is not mesh else params, None, changes)
    to = (itertools.compress(jax.tree.leaves(tree), changes) for tree in (formats, goals))
    waits = not stay and mesh.devices.flat[0].platform == "tpu"
    return RolloutLayout(shapes, _lay_out(*map(tuple, to), waits=waits), changes)


@functools.lru_cache
def _lay_out(formats: Any, places: Any, *, waits: bool) -> Callable[[list[Any]], list[Any]]:
    """One program for every call with the same formats and places."""

    def lay_out(leaves: list[Any]) -> list[Any]:
        rounded = [leaf.astype(to) for leaf, to in zip(leaves, formats, strict=True)]
        return in_turn(rounded, places) if waits else rounded

    return jax.jit(lay_out, out_shardings=list(places))


def shard_params(mesh: Mesh, params: Any) -> Any:
    """Parameters, each split as its name says."""
    return jax.tree.map(_place, params, param_shardings(mesh, params))
