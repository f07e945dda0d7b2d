"""One layer of a decoder: attention and a gated MLP, each behind an RMS norm.

    x = x + attention(norm(x));  x = x + down(act(gate(h)) · up(h)),  h = norm(x)

Gemma puts a norm behind attention and MLP too, before they join the residual stream.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cotjax.interfaces import Placement
from cotjax.models.architecture import Architecture
from cotjax.models.decode_weights import LayerWeights
from cotjax.models.lora import PROJECTIONS, Adapter

# Rotates and mixes: query, key, value and cache in, attended values and new cache out.
Mix = Callable[[Array, Array, Array, Any], tuple[Array, Any]]

_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"silu": nnx.silu, "gelu_pytorch_tanh": nnx.gelu}  # nnx.gelu is the tanh form
)


INITIAL_SPREAD = 0.02  # standard deviation of new weights, which the families share


@dataclasses.dataclass(frozen=True)
class Formats:
    """Number formats.

    Attributes:
      param: of the parameters.
      compute: of activations, and of parameters where they meet them.
      accumulate: in which matrix products are summed and, on sharded weights, cross devices;
        results are then rounded to `compute`.
    """

    param: Any = jnp.float32
    compute: Any = jnp.float32
    accumulate: Any = jnp.float32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, jnp.dtype(getattr(self, field.name)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def gated(activation: str, gate: Array, up: Array) -> Array:
    """activation(gate) · up, whose backward pass stores `gate` and `up` and nothing else.

    Both gradients are written out before the matrix products that read them, twice each: a
    compiler that instead computed them again for each reader spent a quarter of an update on a CPU
    there.
    """
    return _ACTIVATIONS[activation](gate) * up


def _gated(activation: str, gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
    return gated(activation, gate, up), (gate, up)


def _gated_back(activation: str, saved: tuple[Array, Array], by_out: Array) -> Any:
    gate, up = saved
    act, pull_back = jax.vjp(_ACTIVATIONS[activation], gate)
    return jax.lax.optimization_barrier((*pull_back(by_out * up), by_out * act))


gated.defvjp(_gated, _gated_back)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _summed_wide(x: Array, kernel: Array, wide: Any) -> Array:
    return jax.lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), preferred_element_type=wide)


def _summed_wide_forth(x: Any, kernel: Any, wide: Any) -> tuple[Array, tuple[Any, Array]]:
    # A frozen kernel has no gradient, so what entered need not be kept for it.
    kept = x.value if kernel.perturbed else None
    return _summed_wide(x.value, kernel.value, wide), (kept, kernel.value)


def _summed_wide_back(wide: Any, saved: tuple[Any, Array], by_out: Any) -> tuple[Any, Any]:
    x, kernel = saved
    by_out = by_out.astype(kernel.dtype)
    by_x = jax.lax.dot_general(
        by_out, kernel, (((1,), (1,)), ((), ())), preferred_element_type=wide
    )
    if x is None:
        return by_x.astype(kernel.dtype), None
    by_kernel = jax.lax.dot_general(
        x, by_out, (((0,), (0,)), ((), ())), preferred_element_type=wide
    )
    return by_x.astype(kernel.dtype), by_kernel.astype(kernel.dtype)


_summed_wide.defvjp(_summed_wide_forth, _summed_wide_back, symbolic_zeros=True)


def narrow_product(
    x: Float[Array, "N I"], kernel: Float[Array, "I O"], _: Any, precision: Any, **options: Any
) -> Float[Array, "N O"]:
    """Gives x @ kernel summed in a wider format, in place of `jax.lax.dot_general`.

    Its backward pass multiplies numbers of the narrow format, as the forward pass does: what comes
    back was rounded to it where the result was, so nothing more is lost. JAX's own multiplies the
    wide by the narrow, which a CPU does six times as slowly.
    """
    del precision  # of products in float32
    return _summed_wide(x, kernel, options["preferred_element_type"])


class RMSNorm(nnx.Module):
    """x / sqrt(mean x² + eps) · weight, in float32; with `offset` the weight counts from 1.

    Rounded where the authors' code rounds: before the weight, or with `offset` behind it.
    """

    def __init__(self, size: int, shape: Architecture, formats: Formats) -> None:
        self.eps, self.offset, self.dtype = shape.norm_eps, shape.offset_norms, formats.compute
        init = jnp.zeros if self.offset else jnp.ones
        self.scale = nnx.Param(init(size, formats.param))

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        """Norms the last axis."""
        x, scale = x.astype(jnp.float32), self.scale[...]
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        if self.offset:
            return (x * (1 + scale.astype(jnp.float32))).astype(self.dtype)
        return x.astype(self.dtype) * scale.astype(self.dtype)


# Projections whose results lie with the heads, or the parts of the MLP, that a device has.
SPLIT = frozenset({"query", "key", "value", "gate", "up"})


class Block(nnx.Module):
    """One layer; see the module docstring."""

    def __init__(self, shape: Architecture, formats: Formats, *, rngs: nnx.Rngs) -> None:
        self.shape, self.dtype = shape, formats.compute
        narrow = formats.compute != formats.accumulate
        multiply = narrow_product if narrow else jax.lax.dot_general

        def linear(size_in: int, size_out: int, *, bias: bool = False) -> nnx.Linear:
            """A projection whose weights begin as the families' do."""
            return nnx.Linear(
                size_in,
                size_out,
                use_bias=bias,
                kernel_init=nnx.initializers.normal(INITIAL_SPREAD),
                param_dtype=formats.param,
                dtype=formats.compute,
                preferred_element_type=formats.accumulate,
                dot_general=multiply,
                rngs=rngs,
            )

        def norm(size: int) -> RMSNorm:
            return RMSNorm(size, shape, formats)

        hidden, mlp = shape.hidden_size, shape.mlp_size
        width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.attention_norm = norm(hidden)
        self.query = linear(hidden, width, bias=shape.qkv_bias)
        self.key = linear(hidden, kv_width, bias=shape.qkv_bias)
        self.value = linear(hidden, kv_width, bias=shape.qkv_bias)
        self.out = linear(width, hidden)
        self.query_norm = norm(shape.head_dim) if shape.qk_norm else None
        self.key_norm = norm(shape.head_dim) if shape.qk_norm else None
        self.attention_post_norm = norm(hidden) if shape.post_norms else None
        self.mlp_norm = norm(hidden)
        self.gate = linear(hidden, mlp)
        self.up = linear(hidden, mlp)
        self.down = linear(mlp, hidden)
        self.mlp_post_norm = norm(hidden) if shape.post_norms else None

    def read_as(self, weights: LayerWeights) -> None:
        """From now on kernels are read as a decoding loop has them."""
        for name in PROJECTIONS:
            projection = getattr(self, name)
            projection.dot_general = weights.product(name, projection.dot_general)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        mix: Mix,
        cache: Any,
        adapter: Adapter | None = None,
        *,
        placement: Placement | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Returns the new residual stream and the layer's new cache.

        Where a placement splits heads, each device computes its own, and its part of the MLP, of
        whole rows: left to itself the compiler also splits tokens, and then gathers whole weights
        and all rows' gradients where a device has one row.
        """

        def lies(x: Float[Array, "B S I"], split: bool) -> Float[Array, "B S I"]:
            if placement is None or placement.mesh.shape[placement.heads] == 1:
                return x
            place = placement.split(None, placement.heads if split else None)
            return jax.lax.with_sharding_constraint(x, place)

        def project(name: str, x: Float[Array, "B S I"]) -> Float[Array, "B S O"]:
            x = lies(x, name not in SPLIT)
            y = getattr(self, name)(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
            y = lies(y, name in SPLIT)
            return (adapter.add(y, name, x) if adapter else y).astype(self.dtype)

        h = self.attention_norm(x)
        query, key, value = (
            project(name, h).reshape(*h.shape[:2], -1, self.shape.head_dim)
            for name in ("query", "key", "value")
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        mixed, cache = mix(query, key, value, cache)
        h = project("out", mixed.reshape(*h.shape[:2], -1))
        h = h if self.attention_post_norm is None else self.attention_post_norm(h)
        x = x + self._counted(h)
        h = self.mlp_norm(x)
        gate, up = project("gate", h), project("up", h)
        inner: Float[Array, "B S M"] = gated(self.shape.activation, gate, up)
        h = project("down", inner)
        h = h if self.mlp_post_norm is None else self.mlp_post_norm(h)
        return x + self._counted(h), cache

    def _counted(self, h: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """What joins the residual stream."""
        factor = self.shape.residual_multiplier
        return h if factor == 1 else h * jnp.asarray(factor, h.dtype)
