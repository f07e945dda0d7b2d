"""One optimizer step: gradients of (sum, count) losses, accumulated, divided once, applied.

    gradient = Σ_micro ∇ sum_i  /  Σ_micro count_i

so the result does not depend on how a batch is split into micro-batches or devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

SumCount = tuple[Float[Array, ""], Float[Array, ""]]
# (parameters, micro-batch) -> loss sum, loss count, and further metrics as (sum, count).
LossFn = Callable[[Any, Any], tuple[Array, Array, dict[str, SumCount]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What an optimizer step changes.

    Attributes:
      step: optimizer steps taken.
      params: the student's parameters.
      opt_state: optax's.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def split_micro(batch: Any, num_micro: int) -> Any:
    """[B, …] leaves to [M, B / M, …].

    Raises:
      ValueError: M does not divide B.
    """

    def split(leaf: Array) -> Array:
        if leaf.shape[0] % num_micro:
            raise ValueError(f"a batch of {leaf.shape[0]} does not split into {num_micro} parts")
        return leaf.reshape(num_micro, leaf.shape[0] // num_micro, *leaf.shape[1:])

    return jax.tree.map(split, batch)


def accumulate(loss_fn: LossFn, params: Any, batch: Any, num_micro: int) -> tuple[Any, dict]:
    """Gradient of the whole batch, one micro-batch in memory at a time.

    Args:
      loss_fn: see `LossFn`.
      params: to differentiate by.
      batch: [B, …] leaves.
      num_micro: M; 1 takes the batch whole.

    Returns:
      gradient in float32, and metrics as (sum, count), `loss` among them.
    """

    def sums(params: Any, micro: Any) -> tuple[Array, dict[str, SumCount]]:
        total, count, metrics = loss_fn(params, micro)
        return total, {"loss": (total, count)} | metrics

    def one(micro: Any) -> tuple[Any, dict[str, SumCount]]:
        return jax.grad(sums, has_aux=True)(params, micro)

    if num_micro == 1:
        gradient, metrics = one(batch)
    else:
        micros = split_micro(batch, num_micro)
        zero = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], micros)),
        )

        def add(total: Any, micro: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(micro)), None

        (gradient, metrics), _ = jax.lax.scan(add, zero, micros)
    count = jnp.maximum(metrics["loss"][1], 1e-9)
    return jax.tree.map(lambda leaf: leaf / count, gradient), metrics


def make_update(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, num_micro: int = 1
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, SumCount]]]:
    """A jitted (state, batch) -> (state, metrics); the old state's buffers are reused.

    Metrics are (sum, count) pairs; `grad_norm` is the norm before clipping.
    """

    def update(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, SumCount]]:
        gradient, metrics = accumulate(loss_fn, state.params, batch, num_micro)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = (optax.global_norm(gradient), jnp.ones(()))
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(update, donate_argnums=0)
