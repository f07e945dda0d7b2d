"""One optimizer step: gradients of (sum, count) losses, accumulated, divided once, applied.

    gradient = Σ_micro ∇ sum_i  /  Σ_micro count_i

so the result does not depend on how a batch is split into micro-batches or devices.

Where the loss or the gradient is NaN or infinite, the update is skipped on the device: parameters
and optimizer, its count included, stay as they were. No host waits to decide it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from cotjax.interfaces import Program, TrainState
from cotjax.startup import compile_together

SumCount = tuple[Float[Array, ""], Float[Array, ""]]
# (all parameters, the reference's, micro-batch) -> loss sum, count, further (sum, count) metrics.
LossFn = Callable[[Any, Any, Any], tuple[Array, Array, dict[str, SumCount]]]
# Gradient of a loss sum, and metrics; adds up over micro-batches.
Gradient = tuple[Any, dict[str, SumCount]]


class Frozen(NamedTuple):
    """Parameters that an update reads and does not change.

    Attributes:
      base: those beside an adapter; empty without one.
      reference: those of a frozen reference, for the loss to score; None without.
    """

    base: Any = None
    reference: Any = None


NOTHING = Frozen()
# Trained parameters and the base's to all parameters of the model.
Join = Callable[[Any, Any], Any]


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the optimizer's moments are split as their parameters are.

    Args:
      params: arrays, on the devices where they shall stay; or `jax.ShapeDtypeStruct`s with a
        sharding, for a state to compile with.
      optimizer: optax's.
    """
    whole, init = _whole(params), _init(params, optimizer)
    if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
        step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        return TrainState(step, params, _moment_shapes(params, optimizer))
    start = jax.make_array_from_callback((), whole, lambda _: np.int32(0))
    return TrainState(start, params, init(params))


def init_program(params: Any, optimizer: optax.GradientTransformation) -> Program:
    """What `init_state` compiles for parameters of these shapes."""
    return Program("the optimizer's first state", _init(params, optimizer), (params,))


def _init(params: Any, optimizer: optax.GradientTransformation) -> Any:
    like = jax.tree.map(lambda leaf: leaf.sharding, _moment_shapes(params, optimizer))
    return jax.jit(optimizer.init, out_shardings=like)


def _moment_shapes(params: Any, optimizer: optax.GradientTransformation) -> Any:
    whole, moments = _whole(params), jax.eval_shape(optimizer.init, params)
    like = optax.tree_map_params(
        optimizer,
        lambda _, leaf: leaf.sharding,
        moments,
        params,
        transform_non_params=lambda _: whole,
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        moments,
        like,
    )


def _whole(params: Any) -> Sharding:
    """A copy on each of the devices that hold the parameters."""
    sharding = jax.tree.leaves(params)[0].sharding
    return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else sharding


@dataclasses.dataclass(frozen=True)
class Update:
    """An optimizer step over micro-batches: (state, micro-batches, frozen) -> (state, metrics).

    Micro-batches of one shape are scanned in one compiled program. Those of several shapes, each
    padded to its own longest, are taken one after the other, by a program per shape. Either way
    only one is computed at a time, beside the sum of gradients. The old state's buffers are reused,
    and the new state lies where it lay.

    Metrics are (sum, count) pairs, `loss` among them; `grad_norm` is the norm before clipping, and
    `skipped` 1 if the loss or that norm was not finite, so that nothing changed, and else 0. An
    element that a finite gradient would make infinite keeps its value.

    Attributes:
      whole: the step on micro-batches of one shape; of `jax.jit`, as the others.
      gradient: of one micro-batch.
      add: two gradients to their sum.
      apply: a state and the sum of gradients to the next state.
      scan: whether micro-batches may be stacked.
      met: the shapes of micro-batches that were taken one after the other so far.
    """

    whole: Any
    gradient: Any
    add: Any
    apply: Any
    scan: bool
    met: set[Any] = dataclasses.field(default_factory=set[Any], repr=False, compare=False)

    def __call__(
        self, state: TrainState, micros: Sequence[Any], frozen: Frozen = NOTHING
    ) -> tuple[TrainState, dict[str, SumCount]]:
        """Takes the step.

        Args:
          state: its buffers are reused.
          micros: micro-batches.
          frozen: arrays that the loss reads and no update changes; an argument of the compiled
            programs, so no copy is baked into them.
        """
        first, *others = micros
        if not others or (self.scan and all(_shapes(micro) == _shapes(first) for micro in others)):
            return self.whole(state, frozen, tuple(micros))
        self._compile(state, micros, frozen)
        summed = self.gradient(state.params, frozen, first)
        for micro in others:
            summed = self.add(summed, self.gradient(state.params, frozen, micro))
        return self.apply(state, summed)

    def _compile(self, state: TrainState, micros: Sequence[Any], frozen: Frozen) -> None:
        """Compiles what shapes that come for the first time need: side by side, the longest first.

        A step would compile the same one after the other, and compute between.
        """
        kinds = {_shapes(micro): micro for micro in micros}
        new = [micro for kind, micro in kinds.items() if kind not in self.met]
        programs = [
            Program("update: gradient", self.gradient, (state.params, frozen, micro))
            for micro in reversed(new)
        ]
        if not self.met:
            summed = _gradient_shapes(self.gradient, state, frozen, new[-1])
            programs += self._sums("update", summed, state)
        if len(programs) > 1:
            compile_together(programs)
        self.met.update(kinds)

    def _sums(self, name: str, summed: Any, state: Any, *, always: bool = True) -> list[Program]:
        """What gradients of these shapes go through."""
        return [
            Program(f"{name}: sum of gradients", self.add, (summed, summed), always=always),
            Program(f"{name}: new state", self.apply, (state, summed), always=always),
        ]

    def programs(
        self,
        name: str,
        state: TrainState,
        micros: Sequence[Any],
        *,
        count: int = 1,
        frozen: Frozen = NOTHING,
        always: bool = True,
    ) -> Iterator[Program]:
        """What steps compile.

        Args:
          name: of the step, for the reader.
          state: shapes.
          micros: the shapes that a micro-batch may have, the likeliest last.
          count: micro-batches of a step.
          frozen: shapes.
          always: whether every run takes such a step, nearly always with the likeliest shape.
        """
        likeliest, one_shape = micros[-1], count == 1 or len(micros) == 1
        stacked = count == 1 or self.scan
        for micro in micros if stacked else ():
            sure = always and one_shape and micro is likeliest
            yield Program(name, self.whole, (state, frozen, (micro,) * count), always=sure)
        if stacked and one_shape:
            return
        sure = always and not stacked
        for micro in micros:
            args = state.params, frozen, micro
            likely = sure and micro is likeliest
            yield Program(f"{name}: gradient", self.gradient, args, always=likely)
        # Of the shape that comes most likely, whose trace is kept for it.
        summed = _gradient_shapes(self.gradient, state, frozen, micros[-1])
        yield from self._sums(name, summed, state, always=sure)


def _gradient_shapes(gradient: Any, state: TrainState, frozen: Frozen, micro: Any) -> Any:
    """Of a gradient, split as its parameters are; and of metrics, on every device."""
    total, metrics = jax.eval_shape(gradient, state.params, frozen, micro)
    whole = state.step.sharding
    total = jax.tree.map(
        lambda leaf, like: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=like.sharding),
        total,
        state.params,
    )
    metrics = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), metrics
    )
    return total, metrics


def make_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    *,
    join: Join = lambda trained, _: trained,
    scan: bool = True,
) -> Update:
    """An optimizer step over micro-batches; see `Update`.

    Args:
      loss_fn: see `LossFn`.
      optimizer: optax's.
      state: one that will be updated, or its shapes; only its shardings are read.
      join: trained parameters and those beside them to all that the loss takes.
      scan: whether micro-batches may be stacked; not if they share large arrays.
    """
    place = jax.tree.map(lambda leaf: leaf.sharding, state)

    def sums(params: Any, frozen: Frozen, micro: Any) -> tuple[Array, dict[str, SumCount]]:
        whole = join(params, frozen.base)
        total, count, metrics = loss_fn(whole, frozen.reference, micro)
        return total, {"loss": (total, count)} | metrics

    def gradient(params: Any, frozen: Frozen, micro: Any) -> Gradient:
        return jax.grad(sums, has_aux=True)(params, frozen, micro)

    def apply(state: TrainState, summed: Gradient) -> tuple[TrainState, dict[str, SumCount]]:
        total, metrics = summed
        count = jnp.maximum(metrics["loss"][1], 1e-9)
        mean = jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), total)
        updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(mean)
        # Squares enter the norm: while it is finite, so are the moments made of them.
        finite = jnp.isfinite(metrics["loss"][0]) & jnp.isfinite(norm)
        params = jax.tree.map(
            lambda new, old: jnp.where(jnp.isfinite(new), new, old), params, state.params
        )
        new = TrainState(state.step + 1, params, opt_state)
        new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
        skipped = 1 - finite.astype(jnp.float32)
        return new, metrics | {
            "grad_norm": (norm, jnp.ones(())),
            "skipped": (skipped, jnp.ones(())),
        }

    def accumulate(params: Any, frozen: Frozen, micros: Sequence[Any]) -> Gradient:
        def add(summed: Gradient, micro: Any) -> tuple[Gradient, None]:
            total, metrics = jax.tree.map(jnp.add, summed, gradient(params, frozen, micro))
            return (jax.lax.with_sharding_constraint(total, place.params), metrics), None

        shapes = jax.eval_shape(gradient, params, frozen, micros[0])
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *micros)
        return jax.lax.scan(add, empty, stacked)[0]

    def update(
        state: TrainState, frozen: Frozen, micros: Sequence[Any]
    ) -> tuple[TrainState, dict[str, SumCount]]:
        if len(micros) == 1:
            return apply(state, gradient(state.params, frozen, micros[0]))
        return apply(state, accumulate(state.params, frozen, micros))

    def add_gradients(one: Gradient, other: Gradient) -> Gradient:
        return jax.tree.map(jnp.add, one, other)

    whole = place.step
    return Update(
        whole=jax.jit(update, donate_argnums=0, out_shardings=(place, whole)),
        # A gradient is summed over the devices into the parts that its parameter is split into.
        gradient=jax.jit(gradient, out_shardings=(place.params, whole)),
        add=jax.jit(add_gradients, donate_argnums=0, out_shardings=(place.params, whole)),
        apply=jax.jit(apply, donate_argnums=0, out_shardings=(place, whole)),
        scan=scan,
    )


def with_skipped(
    metrics: dict[str, SumCount], *earlier: Mapping[str, SumCount]
) -> dict[str, SumCount]:
    """The metrics of an update, whose `skipped` is that of earlier ones of its step too.

    Nothing is computed: sum and count are tuples of what each update gave, added up on the host.
    """
    pairs = [one["skipped"] for one in (*earlier, metrics) if "skipped" in one]
    if len(pairs) < 2:
        return metrics
    sums, counts = zip(*pairs, strict=True)
    together: Any = sums, counts
    return metrics | {"skipped": together}


def on_host(metrics: Mapping[str, SumCount]) -> dict[str, float]:
    """Sums over counts as numbers; the one place where a step waits for its updates."""
    pairs = jax.device_get(metrics)
    return {
        name: _added(total) / max(_added(count), 1e-9) for name, (total, count) in pairs.items()
    }


def _added(number: Any) -> float:
    return sum(map(_added, number)) if isinstance(number, tuple) else float(number)


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
