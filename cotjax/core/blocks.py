"""Losses of logits that are never whole: hidden states times unembedding, a block at a time.

The forward pass walks over the tokens, a few at a time with the whole vocabulary, so that a loss
sees complete rows; it keeps a few numbers per token. The backward pass walks over the vocabulary, a
few rows of the unembedding at a time with all tokens, so that each row of its gradient is one sum
over tokens, accumulated in float32 and written once: token by token it would need a second
[V, D] array in float32. Both walks hold at most about chunk_size · V logits of a model.
"""

import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

LANES = 128


class BlockLoss(Protocol):
    """A loss per token that can be differentiated in parts. Hashable: it is a static argument.

    `tokens` is a pytree of arrays whose axes begin with those of a token, `shared` one of arrays
    that all tokens use. Neither receives a gradient.
    """

    def rows(
        self, logits: Float[Array, "*B C V"], tokens: Any, shared: Any
    ) -> tuple[Float[Array, "*B C"], Any]:
        """Values of some tokens from all their logits, and numbers per token for `slopes`."""
        ...

    def slopes(
        self, logits: Float[Array, "*B T W"], start: Array, saved: Any, tokens: Any, shared: Any
    ) -> Float[Array, "*B T W"]:
        """∂value/∂logits of all tokens for the W vocabulary entries from `start`."""
        ...


def unembed(hidden: Float[Array, "*B T D"], rows: Float[Array, "W D"]) -> Float[Array, "*B T W"]:
    """Logits of W vocabulary entries; products in the dtype of `hidden`, sums in float32."""
    return jnp.einsum(
        "...d,wd->...w",
        hidden,
        rows.astype(hidden.dtype),
        preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
    )


def blockwise_loss(
    loss: BlockLoss,
    hidden: Float[Array, "*B T D"],
    unembedding: Float[Array, "V D"],
    tokens: Any,
    shared: Any,
    *,
    chunk_size: int,
    vocab_size: int,
) -> Float[Array, "*B T"]:
    """Computes `loss` of `hidden @ unembedding.T` without building that product.

    Args:
      loss: what to compute from a row of logits.
      hidden: [..., T, D].
      unembedding: [V, D]; its gradient has its dtype. If it is not differentiated (frozen under
        LoRA), no gradient array is built for it.
      tokens: arrays [..., T, ...] that belong to the tokens. No gradient.
      shared: arrays that belong to all tokens. No gradient.
      chunk_size: how many tokens' worth of logits may exist at once.
      vocab_size: rows of the unembedding that count; the ones after it are padding.

    Returns:
      [..., T], differentiable once in `hidden` and `unembedding` (reverse mode).

    Raises:
      ValueError: chunk_size < 1, or more vocabulary than the unembedding has rows.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size}: a chunk needs at least 1 token.")
    if not 1 <= vocab_size <= len(unembedding):
        raise ValueError(f"vocab_size = {vocab_size}: the unembedding has {len(unembedding)} rows.")
    return _blockwise(loss, chunk_size, vocab_size, hidden, unembedding, tokens, shared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _blockwise(loss, chunk_size, vocab_size, hidden, unembedding, tokens, shared):
    return _forward(loss, chunk_size, vocab_size, hidden, unembedding, tokens, shared)[0]


def _forward(loss, chunk_size, vocab_size, hidden, unembedding, tokens, shared):
    axis = hidden.ndim - 2
    length = hidden.shape[axis]
    # Chunks run along T and keep the leading axes whole, so a sharded batch stays where it is.
    chunk = max(1, min(length, chunk_size // max(1, math.prod(hidden.shape[:axis]))))

    def split(x):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, -length % chunk)
        x = jnp.pad(x, padding)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, chunk, *x.shape[axis + 1 :]), axis, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return lax.slice_in_dim(x, 0, length, axis=axis)

    def one_chunk(inputs):
        hidden, tokens = inputs
        return loss.rows(unembed(hidden, unembedding)[..., :vocab_size], tokens, shared)

    outputs = lax.map(one_chunk, jax.tree.map(split, (hidden, tokens)))
    return jax.tree.map(join, outputs)


def _fwd(loss, chunk_size, vocab_size, *primals):
    hidden, unembedding, tokens, shared = jax.tree.map(lambda x: x.value, primals)
    value, saved = _forward(loss, chunk_size, vocab_size, hidden, unembedding, tokens, shared)
    # () or None is part of the tree, so the backward pass knows it while tracing.
    trained = () if primals[1].perturbed else None
    return value, (hidden, unembedding, tokens, shared, saved, trained)


def _bwd(loss, chunk_size, vocab_size, residuals, cotangent):
    hidden, unembedding, tokens, shared, saved, trained = residuals
    if isinstance(cotangent, SymbolicZero):
        return None, None, None, None
    token_axes = tuple(range(hidden.ndim - 1))
    count = math.prod(hidden.shape[:-1])
    block = chunk_size * vocab_size // max(count, 1) // LANES * LANES
    block = min(vocab_size, max(LANES, block))

    def one_block(carry, first):
        d_hidden, d_unembedding = carry
        # The last block overlaps its neighbour instead of running over the edge.
        start = jnp.minimum(first, vocab_size - block)
        rows = lax.dynamic_slice_in_dim(unembedding, start, block).astype(hidden.dtype)
        slopes = loss.slopes(unembed(hidden, rows), start, saved, tokens, shared)
        slopes = (slopes * cotangent[..., None]).astype(hidden.dtype)
        fresh = jnp.where(start + jnp.arange(block) >= first, slopes, 0)
        d_hidden += jnp.einsum("...w,wd->...d", fresh, rows, preferred_element_type=d_hidden.dtype)
        if trained is not None:
            d_rows = lax.dot_general(
                slopes,
                hidden,
                ((token_axes, token_axes), ((), ())),
                preferred_element_type=d_hidden.dtype,
            ).astype(unembedding.dtype)
            d_unembedding = lax.dynamic_update_slice_in_dim(d_unembedding, d_rows, start, 0)
        return (d_hidden, d_unembedding), None

    wide = jnp.promote_types(hidden.dtype, jnp.float32)
    carry = (
        jnp.zeros(hidden.shape, wide),
        None if trained is None else jnp.zeros_like(unembedding),
    )
    (d_hidden, d_unembedding), _ = lax.scan(one_block, carry, jnp.arange(0, vocab_size, block))
    return d_hidden.astype(hidden.dtype), d_unembedding, None, None


_blockwise.defvjp(_fwd, _bwd, symbolic_zeros=True)
