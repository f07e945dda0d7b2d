"""One pre-norm decoder for every family: rotary attention, gated MLP, RMS norms.

    x = x + attention(norm(x));  x = x + down(silu(gate(h)) · up(h)),  h = norm(x)

Layers are stacked on a leading axis and scanned, so that a deep model compiles like a shallow one.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from cotjax.models.attention import Attend


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a decoder; sizes in units, not bytes.

    Attributes:
      family: name of the Hugging Face `model_type` that this shape is saved as.
      qkv_bias: the query, key and value projections add a bias (Qwen2).
      qk_norm: each head's query and key pass an RMS norm before rotation (Qwen3).
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    max_positions: int = 2048


def _linear(
    size_in: int, size_out: int, dtypes: dict[str, Any], rngs: nnx.Rngs, *, bias: bool = False
) -> nnx.Linear:
    """A projection with the 0.02 normal initialisation that the families share."""
    init = nnx.initializers.normal(0.02)
    return nnx.Linear(size_in, size_out, use_bias=bias, kernel_init=init, rngs=rngs, **dtypes)


def rotate(
    x: Float[Array, "B S H D"], positions: Int[Array, "B S"], theta: float
) -> Float[Array, "B S H D"]:
    """Rotary position embedding, halves convention (Hugging Face): pairs (i, i + D/2).

    Source: Su et al. 2021, arXiv:2104.09864.
    """
    # Rounded where the reference code rounds: far positions multiply every last bit.
    exponent = np.arange(0, x.shape[-1], 2, dtype=np.float32) / np.float32(x.shape[-1])
    frequency = np.float32(1) / (theta ** exponent.astype(np.float64)).astype(np.float32)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class Block(nnx.Module):
    """One layer: attention and a gated MLP, each behind an RMS norm."""

    def __init__(self, shape: Architecture, dtypes: dict[str, Any], *, rngs: nnx.Rngs) -> None:
        self.shape = shape
        width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.attention_norm = nnx.RMSNorm(
            shape.hidden_size, epsilon=shape.norm_eps, rngs=rngs, **dtypes
        )
        self.query = _linear(shape.hidden_size, width, dtypes, rngs, bias=shape.qkv_bias)
        self.key = _linear(shape.hidden_size, kv_width, dtypes, rngs, bias=shape.qkv_bias)
        self.value = _linear(shape.hidden_size, kv_width, dtypes, rngs, bias=shape.qkv_bias)
        self.out = _linear(width, shape.hidden_size, dtypes, rngs)
        if shape.qk_norm:
            self.query_norm = nnx.RMSNorm(
                shape.head_dim, epsilon=shape.norm_eps, rngs=rngs, **dtypes
            )
            self.key_norm = nnx.RMSNorm(shape.head_dim, epsilon=shape.norm_eps, rngs=rngs, **dtypes)
        self.mlp_norm = nnx.RMSNorm(shape.hidden_size, epsilon=shape.norm_eps, rngs=rngs, **dtypes)
        self.gate = _linear(shape.hidden_size, shape.mlp_size, dtypes, rngs)
        self.up = _linear(shape.hidden_size, shape.mlp_size, dtypes, rngs)
        self.down = _linear(shape.mlp_size, shape.hidden_size, dtypes, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], positions: Int[Array, "B S"], attend: Attend, cache: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Returns the new residual stream and the layer's new cache."""
        h = self.attention_norm(x)
        query, key, value = (
            project(h).reshape(*h.shape[:2], -1, self.shape.head_dim)
            for project in (self.query, self.key, self.value)
        )
        if self.shape.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query = rotate(query, positions, self.shape.rope_theta)
        key = rotate(key, positions, self.shape.rope_theta)
        mixed, cache = attend(query, key, value, cache)
        x = x + self.out(mixed.reshape(*h.shape[:2], -1))
        h = self.mlp_norm(x)
        return x + self.down(nnx.silu(self.gate(h)) * self.up(h)), cache


class Transformer(nnx.Module):
    """A decoder-only language model; see the module docstring for the equations."""

    def __init__(
        self,
        shape: Architecture,
        *,
        rngs: nnx.Rngs,
        param_dtype: Any = jnp.float32,
        dtype: Any = jnp.float32,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        dtypes = {"param_dtype": param_dtype, "dtype": dtype}
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Embed(
            shape.vocab_size, shape.hidden_size, embedding_init=init, rngs=rngs, **dtypes
        )

        @nnx.split_rngs(splits=shape.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make_layers(rngs: nnx.Rngs) -> Block:
            return Block(shape, dtypes, rngs=rngs)

        self.layers = make_layers(rngs)
        self.final_norm = nnx.RMSNorm(
            shape.hidden_size, epsilon=shape.norm_eps, rngs=rngs, **dtypes
        )
        if not shape.tie_embeddings:
            self.unembed_weight = nnx.Param(
                init(rngs.params(), (shape.vocab_size, shape.hidden_size), param_dtype)
            )

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        attend: Attend,
        caches: Any = None,
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Runs all layers.

        Args:
          tokens: [B, S] ids.
          positions: [B, S] rotary positions.
          attend: who sees whom, and what the cache holds.
          caches: None, or per layer what `attend` takes: a list (layers are unrolled, which is
            what a decoding loop wants) or leaves with a leading layer axis (layers are scanned).

        Returns:
          hidden states after the last norm [B, S, D], and the caches in the form of `caches`
          (stacked when it was None).
        """
        x = self.embed(tokens)
        definition, stacked = nnx.split(self.layers)

        def layer(x: Array, inputs: tuple[Any, Any]) -> tuple[Array, Any]:
            params, cache = inputs
            return nnx.merge(definition, params)(x, positions, attend, cache)

        if isinstance(caches, list):
            new_caches = []
            for i, cache in enumerate(caches):
                x, cache = layer(x, (jax.tree.map(lambda leaf, i=i: leaf[i], stacked), cache))
                new_caches.append(cache)
            return self.final_norm(x), new_caches
        # A shallow stack compiles faster than it scans; a deep one is compiled once and looped.
        unroll = self.shape.num_layers if self.shape.num_layers <= 8 else 1
        x, new_caches = jax.lax.scan(layer, x, (stacked, caches), unroll=unroll)
        return self.final_norm(x), new_caches

    @property
    def unembed(self) -> Float[Array, "V D"]:
        """The matrix that turns hidden states into logits: logits = hidden @ unembed.T."""
        weight = self.embed.embedding if self.shape.tie_embeddings else self.unembed_weight
        return weight[...].astype(self.dtype)
