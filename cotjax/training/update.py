"""One optimizer step: gradients of (sum, count) losses, accumulated, divided once, applied.

    gradient = Σ_micro ∇ sum_i  /  Σ_micro count_i

so the result does not depend on how a batch is split into micro-batches or devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from cotjax.interfaces import TrainState

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
    whole = _whole(params)
    opt_state = jax.eval_shape(optimizer.init, params)
    like = optax.tree_map_params(
        optimizer,
        lambda _, leaf: leaf.sharding,
        opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    if isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct):
        opt_state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            opt_state,
            like,
        )
        step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        return TrainState(step, params, opt_state)
    start = jax.jit(lambda: jnp.zeros((), jnp.int32), out_shardings=whole)()
    return TrainState(start, params, jax.jit(optimizer.init, out_shardings=like)(params))


def _whole(params: Any) -> Sharding:
    """A copy on each of the devices that hold the parameters."""
    sharding = jax.tree.leaves(params)[0].sharding
    return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else sharding


def make_update(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    frozen: Frozen = NOTHING,
    *,
    join: Join = lambda trained, _: trained,
    scan: bool = True,
) -> Callable[[TrainState, Sequence[Any]], tuple[TrainState, dict[str, SumCount]]]:
    """An optimizer step over micro-batches: (state, micro-batches) -> (state, metrics).

    Micro-batches of one shape are scanned in one compiled program. Those of several shapes, each
    padded to its own longest, are taken one after the other, by a program per shape. Either way
    only one is computed at a time, beside the sum of gradients. The old state's buffers are reused,
    and the new state lies where it lay.

    Metrics are (sum, count) pairs, `loss` among them; `grad_norm` is the norm before clipping.

    Args:
      loss_fn: see `LossFn`.
      optimizer: optax's.
      state: one that will be updated; only its shardings are read.
      frozen: arrays that the loss reads and no update changes; an argument of the compiled
        programs, so no copy is baked into them.
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
        metrics = metrics | {"grad_norm": (optax.tree.norm(mean), jnp.ones(()))}
        return TrainState(state.step + 1, params, opt_state), metrics

    def accumulate(params: Any, frozen: Frozen, micros: Sequence[Any]) -> Gradient:
        def add(summed: Gradient, micro: Any) -> tuple[Gradient, None]:
            total, metrics = jax.tree.map(jnp.add, summed, gradient(params, frozen, micro))
            return (jax.lax.with_sharding_constraint(total, place.params), metrics), None

        shapes = jax.eval_shape(gradient, params, frozen, micros[0])
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *micros)
        return jax.lax.scan(add, empty, stacked)[0]

    def whole(
        state: TrainState, frozen: Frozen, micros: Sequence[Any]
    ) -> tuple[TrainState, dict[str, SumCount]]:
        if len(micros) == 1:
            return apply(state, gradient(state.params, frozen, micros[0]))
        return apply(state, accumulate(state.params, frozen, micros))

    whole_jit = jax.jit(whole, donate_argnums=0, out_shardings=(place, None))
    # A gradient is summed over the devices into the parts that its parameter is split into.
    gradient_jit = jax.jit(gradient, out_shardings=(place.params, None))
    add_jit = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b), donate_argnums=0)
    apply_jit = jax.jit(apply, donate_argnums=0, out_shardings=(place, None))

    def update(state: TrainState, micros: Sequence[Any]) -> tuple[TrainState, dict[str, SumCount]]:
        first, *others = micros
        if not others or (scan and all(_shapes(micro) == _shapes(first) for micro in others)):
            return whole_jit(state, frozen, tuple(micros))
        summed = gradient_jit(state.params, frozen, first)
        for micro in others:
            summed = add_jit(summed, gradient_jit(state.params, frozen, micro))
        return apply_jit(state, summed)

    return update


def _shapes(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
