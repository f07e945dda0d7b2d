"""How a decoding loop reads the projections of a layer: turned for a CPU, int8 to be read faster.

    W ≈ q · s,  s = max_I |W| / 127 by column,  so  x W ≈ (x q) · s

with |W - q s| <= s / 2. The integers, at most 127, are exact in every format of activations, so
what is lost is lost in rounding W. A decoder of large matrices waits for them to be read: in int8
they are half of bfloat16's bytes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from cotjax.models.lora import PROJECTIONS, Adapter

_MOST = 127
Product = Callable[..., Array]  # as jax.lax.dot_general is called by an nnx.Linear


class Quantized(NamedTuple):
    """A matrix in int8.

    Attributes:
      values: [*L, I, O] q.
      scale: [*L, O] s, float32.
    """

    values: Int8[Array, "*L I O"]
    scale: Float[Array, "*L O"]


def quantized(kernel: Float[Array, "*L I O"]) -> Quantized:
    """Rounds a matrix to int8, a scale for each column.

    A column with a NaN or an infinity has a scale that is not finite, which results then show.

    Example:
      >>> quantized(jnp.array([[1.0, 0.0], [-2.0, 0.0]])).values.tolist()
      [[64, 0], [-127, 0]]
    """
    kernel = kernel.astype(jnp.float32)
    scale = jnp.abs(kernel).max(axis=-2) / _MOST
    values = jnp.round(kernel / jnp.where(scale > 0, scale, 1)[..., None, :])
    return Quantized(values.astype(jnp.int8), scale)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerWeights:
    """What a decoding loop has of a layer.

    Attributes:
      params: the layer's parameters; projections may be turned, or int8.
      adapter: beside them; None without one.
      scales: s of the projections that are int8, by name.
      turned: whether projections are [O, I].
    """

    params: Any
    adapter: Adapter | None
    scales: dict[str, Float[Array, " O"]] = dataclasses.field(default_factory=dict)
    turned: bool = dataclasses.field(default=False, metadata={"static": True})

    def read_with(self, x: Array) -> tuple[Any, Array]:
        """The parameters, and x. Integers wait for x, so that each pass reads the integers.

        Without the barrier a compiler multiplies them out once, before the loop.
        """
        if not self.scales:
            return self.params, x
        return jax.lax.optimization_barrier((self.params, x))

    def product(self, name: str, product: Product) -> Product:
        """A projection's product of matrices, times its scale if it has one."""
        if self.turned:
            product = turned_product
        if name not in self.scales:
            return product
        return functools.partial(_scaled, product, self.scales[name])


def _scaled(product: Product, scale: Float[Array, " O"], *args: Any, **options: Any) -> Array:
    y = product(*args, **options)
    return y * scale.astype(y.dtype)


def turned_product(
    x: Float[Array, "N I"], kernel: Float[Array, "O I"], _: Any, precision: Any, **options: Any
) -> Float[Array, "N O"]:
    """Gives x @ kernel.T as (kernel @ x.T).T, in place of `jax.lax.dot_general` in an `nnx.Linear`.

    A CPU's library copies the second factor of a product into the order in which it multiplies. For
    the few rows of a decoding loop, copying a kernel takes longer than the product; x is small.
    Without the barrier XLA would swap the factors back.
    """
    by_last = (((1,), (1,)), ((), ()))
    product = jax.lax.dot_general(kernel, x, by_last, precision, **options)
    return jax.lax.optimization_barrier(product).T


def layers_of(
    stacked: Any, adapter: Adapter | None, count: int, *, turned: bool = False, int8: bool = False
) -> list[LayerWeights]:
    """Cuts stacked layers apart.

    Args:
      stacked: an `nnx.State` of the parameters of all layers, leaves [L, …].
      adapter: of all layers.
      count: L.
      turned: projections become [O, I].
      int8: projections become integers.
    """
    layers = (jax.tree.map(lambda leaf, i=i: leaf[i], (stacked, adapter)) for i in range(count))
    return [_changed(params, own, turned, int8) for params, own in layers]


def _changed(params: Any, adapter: Adapter | None, turned: bool, int8: bool) -> LayerWeights:
    scales = {}
    if int8:
        scales = {name: quantized(params[name]["kernel"][...]).scale for name in PROJECTIONS}
        params = _kernels(lambda kernel: quantized(kernel).values, params)
    if turned:
        params = _kernels(jnp.transpose, params)
    return LayerWeights(params, adapter, scales, turned)


def _kernels(change: Callable[[Array], Array], params: Any) -> Any:
    """Changes the leaves [I, O]; a layer's other ones are vectors."""
    return jax.tree.map(lambda leaf: change(leaf) if leaf.ndim == 2 else leaf, params)
