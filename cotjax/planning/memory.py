"""What lies in a device's memory while a program runs, by its kind.

What a run holds all the time (parameters, optimizer, teachers) comes from shapes and shardings, as
does what is named of a program's own; the rest of its own is what the compiler plans.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from cotjax.config import Config
from cotjax.models.architecture import Architecture
from cotjax.parallel.mesh import batch_devices
from cotjax.parallel.sharding import same_devices
from cotjax.planning.compiling import Compiled, bytes_of
from cotjax.rollout.memory import cache_bytes
from cotjax.teachers.distill_loss import TeacherOutputs

# Parts of a device's memory, as they are shown.
PARTS = (
    *("parameters", "optimizer", "reference", "teachers", "gradients", "activations"),
    *("sampling weights", "KV cache", "batch", "temporaries"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device while a program runs.

    Attributes:
      program: its name.
      parts: by kind, those of `PARTS` that there are.
      refused: whether the compiler found that its own part alone does not fit.
    """

    program: str
    parts: Mapping[str, int]
    refused: bool = False

    @property
    def total(self) -> int:
        """All of them, which are alive at once."""
        return sum(self.parts.values())

    def of(self, *kinds: str) -> int:
        """Bytes of some kinds."""
        return sum(self.parts.get(kind, 0) for kind in kinds)


@dataclasses.dataclass(frozen=True)
class Resident:
    """What a run holds all the time: (kind, shapes), by the identity of the shapes."""

    leaves: Mapping[int, tuple[str, Any]]

    def sizes(self) -> dict[str, int]:
        """Bytes on one device, by kind."""
        found: dict[str, int] = {}
        for kind, leaf in self.leaves.values():
            found[kind] = found.get(kind, 0) + bytes_of(leaf)
        return found

    def __contains__(self, leaf: Any) -> bool:
        return id(leaf) in self.leaves


def resident(stage: Any) -> Resident:
    """What a stage holds from its first step to its last.

    Args:
      stage: an open one; of a user's own class, what it shares with the built-in ones.
    """
    found: dict[int, tuple[str, Any]] = {}

    def add(kind: str, tree: Any) -> None:
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                found.setdefault(id(leaf), (kind, leaf))

    state, student = getattr(stage, "state_shapes", None), getattr(stage, "student", None)
    if state is not None:
        add("parameters", state.params)
        add("optimizer", state.opt_state)
    if student is not None:
        add("parameters", student.base_shapes)  # frozen ones beside an adapter
        if getattr(stage, "keeps_start", False) and not student.base_shapes:
            # The update takes over a copy; shapes of their own, since these are further arrays.
            add("reference", jax.tree.map(_again, student.shapes))
    for pool in _pools(stage):
        add("teachers", list(_largest(pool)))
    return Resident(found)


def _largest(pool: Any) -> Iterator[Any]:
    """The shapes of the largest teachers of a pool that are there at once: in use, and the next."""
    models = {id(plan): (number, plan) for number, plan in enumerate(pool.plans)}.values()

    def size(one: tuple[int, Any]) -> int:
        return sum(map(bytes_of, jax.tree.leaves(one[1].student.shapes)))

    for number, plan in sorted(models, key=size, reverse=True)[: getattr(pool, "slots", 0) + 1]:
        yield plan.student.shapes
        if hasattr(pool, "head_copy"):
            yield pool.head_copy(number)


def _again(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _pools(stage: Any) -> Iterator[Any]:
    """The pools of teachers of a stage: its own, that of its policy term or of its texts.

    With a logit cache none is loaded.
    """
    if getattr(getattr(getattr(stage, "config", None), "teachers", None), "cache", ""):
        return
    held = getattr(stage, "teachers", None)
    for one in (held, getattr(held, "teachers", None), getattr(held, "models", None)):
        if hasattr(one, "plans"):
            yield one


def memory_of(compiled: Compiled, stage: Any, config: Config, held: Resident) -> Memory:
    """The memory of a device while a program runs.

    Args:
      compiled: the program.
      stage: that runs it.
      config: of the stage.
      held: what the stage holds.
    """
    program, parts = compiled.program, held.sizes()
    if samples_elsewhere(program, stage):  # on devices that hold nothing of what learns
        parts = {}
    arguments = jax.tree.leaves((program.args, dict(program.kwargs)))
    heads = _heads(program) if any(_pools(stage)) else set()  # held with their teachers
    own = [
        leaf
        for leaf in arguments
        if isinstance(leaf, jax.ShapeDtypeStruct) and leaf not in held and id(leaf) not in heads
    ]
    left = compiled.temporary + max(compiled.outputs - compiled.reused, 0)
    samples, updates = "settings" in program.kwargs, program.name.startswith("update")
    if samples and hasattr(program.args[0], "own_caches"):
        extra = _laid_out(program, stage)
        parts["sampling weights"] = sum(map(bytes_of, extra))
        given = {id(leaf) for leaf in jax.tree.leaves(program.args[1])}
        own = [leaf for leaf in own if id(leaf) not in given]
        left = _take(parts, "KV cache", _caches(program, stage), left, compiled)
    if updates and getattr(stage, "state_shapes", None) is not None:
        trained = sum(map(bytes_of, jax.tree.leaves(stage.state_shapes.params)))
        left = _take(parts, "gradients", trained, left, compiled)
        own_part = _activations(program, stage, config)
        left = _take(parts, "activations", own_part, left, compiled)
    parts["batch"] = sum(map(bytes_of, own))
    parts["temporaries"] = left
    shown = {kind: parts[kind] for kind in PARTS if parts.get(kind)}
    return Memory(program.name, shown, compiled.refused)


def _heads(program: Any) -> set[int]:
    """The heads of teachers among a program's arguments."""

    def stops(one: Any) -> bool:
        return isinstance(one, TeacherOutputs)

    parts = jax.tree.leaves((program.args, dict(program.kwargs)), is_leaf=stops)
    return {id(leaf) for one in filter(stops, parts) for leaf in jax.tree.leaves(one.head)}


def samples_elsewhere(program: Any, stage: Any) -> bool:
    """Whether a program decodes on devices of its own."""
    placement = getattr(program.args[0], "placement", None) if program.args else None
    return placement is not None and not same_devices(stage.mesh, placement.mesh)


def _laid_out(program: Any, stage: Any) -> list[Any]:
    """A sampler's parameters that are further arrays, and not those that are trained."""
    weights = jax.tree.leaves(program.args[1])
    trained = jax.tree.leaves(stage.student.all_shapes)
    if len(weights) != len(trained):
        return weights
    return [
        one
        for one, other in zip(weights, trained, strict=True)
        if one.dtype != other.dtype
        or not one.sharding.is_equivalent_to(other.sharding, len(one.shape))
    ]


def _take(parts: dict[str, int], kind: str, size: int, left: int, compiled: Compiled) -> int:
    """Names so much of what is left; gives what then is."""
    if compiled.estimated:  # what is left is beside it
        parts[kind] = size
        return left
    parts[kind] = min(size, left)
    return left - parts[kind]


def _caches(program: Any, stage: Any) -> int:
    """Of a sampler, on one device."""
    batch, settings = program.args[2], program.kwargs["settings"]
    prompts, width = batch.tokens.shape
    size = cache_bytes(program.args[0], program.args[1], settings, prompts=prompts, width=width)
    return size.total // program.args[0].placement.mesh.size


def _activations(program: Any, stage: Any, config: Config) -> int:
    """What the forward pass of a micro-batch leaves for the backward pass, an estimate."""
    micros = program.args[2]
    micro = micros[0] if isinstance(micros, tuple | list) else micros
    tokens = tokens_of(micro) // batch_devices(stage.mesh)
    shape, tensor = stage.student.architecture, stage.mesh.shape["tensor"]
    width = 2 if config.model.compute_dtype == "bfloat16" else 4
    per_token = saved_per_token(shape, config.model.remat, tensor)
    return int(tokens * shape.num_layers * per_token * width)


def tokens_of(micro: Any) -> int:
    """Tokens that a micro-batch is computed on; a group's prompt once."""
    own: Any = getattr(micro, "batch", None)
    parts: list[Any] = [micro, own, *(micro if isinstance(micro, tuple) else ())]
    for one in parts:
        if hasattr(one, "completion"):
            return one.prompt.size + one.completion.size
        if hasattr(one, "segment"):
            return one.tokens.size
    return 0


def saved_per_token(shape: Architecture, remat: str, tensor: int = 1) -> float:
    """Numbers that a layer keeps of a token for the backward pass.

    With remat "full" its input alone; with "dots" also what its projections give; with "none" what
    norms, attention and the gate give too.

    Args:
      shape: of the decoder.
      remat: a value of `model.remat`.
      tensor: devices that split heads and the MLP's columns.
    """
    width, heads = shape.hidden_size, shape.num_heads * shape.head_dim
    keys = 2 * shape.num_kv_heads * shape.head_dim
    if remat == "full":
        return width
    products = 3 * width + (heads + keys + 2 * shape.mlp_size) / tensor
    if remat == "dots":
        return products
    return products + 2 * width + (2 * heads + keys + shape.mlp_size) / tensor
