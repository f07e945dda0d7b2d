"""The decoder of every family: an embedding, the layers of `block`, a last norm.

Layers are stacked on a leading axis and scanned, so that a deep model compiles like a shallow one.
Layers of two kinds (Gemma's and Qwen's sliding windows) share their one compiled body: inside a
scan `lax.switch` chooses the kind's attention, so a kernel sees a static window either way, and
parameters stay one array that no slice copies; unrolled, as a decoding loop is, the kind of each
layer is known while tracing and nothing is chosen at run time.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cotjax.errors import InputError
from cotjax.interfaces import Placement
from cotjax.models.architecture import Architecture, LayerKind
from cotjax.models.attention import Attend, Scoring
from cotjax.models.block import INITIAL_SPREAD, Block, Formats, Mix, RMSNorm
from cotjax.models.decode_weights import LayerWeights, layers_of
from cotjax.models.lora import Adapter
from cotjax.models.rope import rotate

__all__ = ["REMAT", "Architecture", "Formats", "Transformer"]

# What the backward pass finds in memory, and what it computes again. "dots" keeps the results of
# projections, the bulk of the work; scores [T, T] and whatever is pointwise are computed again.
REMAT: Mapping[str, Callable[..., Any] | None] = MappingProxyType(
    {
        "none": None,
        "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        "full": jax.checkpoint_policies.nothing_saveable,
    }
)


class Transformer(nnx.Module):
    """A decoder-only language model; see the module docstring."""

    def __init__(
        self,
        shape: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        dtype: Any = jnp.float32,
        accumulate_dtype: Any = jnp.float32,
        remat: str = "none",
    ) -> None:
        """Draws the weights.

        Args:
          shape: sizes and options.
          rngs: source of the random weights.
          param_dtype: number format of the parameters; names such as "bfloat16" will do.
          dtype: number format of the activations.
          accumulate_dtype: number format in which matrix products are summed.
          remat: what the backward pass computes again, a name in `REMAT`.

        Raises:
          InputError: an unknown `remat`.
        """
        if remat not in REMAT:
            raise InputError(
                f'model.remat = "{remat}" is not a rematerialisation policy; '
                f"use one of {', '.join(REMAT)}."
            )
        self.shape, self.remat = shape, remat
        self.formats = Formats(param_dtype, dtype, accumulate_dtype)
        init = nnx.initializers.normal(INITIAL_SPREAD)
        size = (shape.vocab_size, shape.hidden_size)
        self.embed = nnx.Embed(*size, embedding_init=init, param_dtype=param_dtype, rngs=rngs)

        @nnx.split_rngs(splits=shape.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make_layers(rngs: nnx.Rngs) -> Block:
            return Block(shape, self.formats, rngs=rngs)

        self.layers = make_layers(rngs)
        self.final_norm = RMSNorm(shape.hidden_size, shape, self.formats)
        if not shape.tie_embeddings:
            self.unembed_weight = nnx.Param(init(rngs.params(), size, param_dtype))

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        attend: Attend,
        caches: Any = None,
        *,
        layers: list[LayerWeights] | None = None,
        adapter: Adapter | None = None,
        placement: Placement | None = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Runs all layers.

        Args:
          tokens: [B, S] ids.
          positions: [B, S] rotary positions.
          attend: which token sees which, and what the cache holds.
          caches: None, or per layer what `attend` takes: a list (layers are unrolled, which is
            what a decoding loop wants) or leaves with a leading layer axis (layers are scanned).
          layers: what `layer_weights` gave, where `caches` is a list; None cuts them here.
          adapter: what is added to projections, of all layers; None adds nothing.
          placement: keeps examples apart on a mesh, so that what the compiler gathers are weights.

        Returns:
          hidden states after the last norm [B, S, D], and the caches in the form of `caches`
          (stacked when it was None).
        """

        def keep(x: Array) -> Array:
            return jax.lax.with_sharding_constraint(x, placement.split()) if placement else x

        x = keep(self._embed(tokens))
        kinds = list(dict.fromkeys(self.shape.kinds))
        which = [kinds.index(kind) for kind in self.shape.kinds]
        mixes = [self._mix(kind, positions, attend) for kind in kinds]
        definition, stacked = nnx.split(self.layers)

        if isinstance(caches, list):
            # Traced once for all layers of a kind.
            @functools.partial(jax.jit, static_argnames="kind")
            def one(x: Array, weights: LayerWeights, cache: Any, kind: int) -> tuple[Array, Any]:
                params, x = weights.read_with(x)
                block = nnx.merge(definition, params)
                block.read_as(weights)
                x, cache = block(x, mixes[kind], cache, weights.adapter)
                return keep(x), cache

            new_caches = []
            layers = layers or self.layer_weights(adapter)
            for kind, cache, weights in zip(which, caches, layers, strict=True):
                x, cache = one(x, weights, cache, kind)
                new_caches.append(cache)
            return self._last(x), new_caches

        def layer(x: Array, inputs: tuple[Any, Any, Any, Array]) -> tuple[Array, Any]:
            params, cache, own, kind = inputs
            mix = _chosen(mixes, kind, again=self.remat == "none")
            x, cache = nnx.merge(definition, params)(x, mix, cache, own, placement=placement)
            return keep(x), cache

        unroll = 1
        if self.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[self.remat], prevent_cse=False)
        elif self.shape.num_layers <= 8:
            # A shallow stack compiles faster than it scans; a deep one is compiled and looped.
            unroll = self.shape.num_layers
        inputs = stacked, caches, adapter, jnp.asarray(which)
        x, new_caches = jax.lax.scan(layer, x, inputs, unroll=unroll)
        return self._last(x), new_caches

    def _last(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """The last norm; logits that are divided have their hidden states divided here."""
        x, divisor = self.final_norm(x), self.shape.logits_scaling
        return x if divisor == 1 else x / jnp.asarray(divisor, x.dtype)

    def layer_weights(
        self, adapter: Adapter | None, *, turned: bool = False, int8: bool = False
    ) -> list[LayerWeights]:
        """Each layer's weights and its adapter's; arguments as for `layers_of`."""
        _, stacked = nnx.split(self.layers)
        return layers_of(stacked, adapter, self.shape.num_layers, turned=turned, int8=int8)

    def _embed(self, tokens: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        dtype = self.formats.compute
        x = jnp.take(self.embed.embedding[...], tokens, axis=0).astype(dtype)
        # The factor is rounded too, as Gemma's authors do.
        factor = self.shape.embedding_multiplier
        if self.shape.scale_embeddings:
            factor *= self.shape.hidden_size**0.5
        return x * jnp.asarray(factor, dtype)

    def _mix(self, kind: LayerKind, positions: Int[Array, "B S"], attend: Attend) -> Mix:
        """The attention of a kind of layer; its angles are computed once for all layers."""
        table = kind.rope.table(positions, self.shape.head_dim)
        scoring = Scoring(
            window=kind.window,
            scale=self.shape.score_scale,
            softcap=self.shape.attention_softcap,
            dtype=self.formats.accumulate,
        )

        def mix(query: Array, key: Array, value: Array, cache: Any) -> tuple[Array, Any]:
            return attend(rotate(query, table), rotate(key, table), value, cache, scoring)

        return mix

    @property
    def dtype(self) -> Any:
        """Number format of the activations."""
        return self.formats.compute

    @property
    def unembed(self) -> Float[Array, "V D"]:
        """The matrix that turns hidden states into logits: logits = hidden @ unembed.T."""
        weight = self.embed.embedding if self.shape.tie_embeddings else self.unembed_weight
        return weight[...].astype(self.dtype)


def _chosen(mixes: list[Mix], kind: Int[Array, ""], *, again: bool) -> Mix:
    """The attention of a layer whose kind is known at run time only.

    A switch keeps for its backward pass what every one of its branches would keep, so that two
    kinds would cost the scores [T, T] twice; with `again` a branch is computed again instead.
    """
    if len(mixes) == 1:
        return mixes[0]
    branches = [jax.checkpoint(mix, prevent_cse=False) if again else mix for mix in mixes]
    return lambda *arrays: jax.lax.switch(kind, branches, *arrays)
