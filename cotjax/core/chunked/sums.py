"""Sums of losses of logits that are never whole, with their gradient in one walk over the tokens.

The gradient of a sum is known but for one factor when its value is computed. So logits, of the
student and of everyone else, are computed once, where `blockwise_loss` computes them again in its
backward pass: with two teachers five products with an unembedding instead of eight.

The price is a [V, D] array in float32, where the gradient of the unembedding is added up.
"""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float

from cotjax.core.chunked.blocks import (
    BlockLoss,
    Cut,
    check_sizes,
    unembedding,
    value_of,
    wide_of,
)
from cotjax.core.softcap import SoftCap, soft_cap, soft_cap_slope


def summed_loss(
    loss: BlockLoss,
    hidden: Float[Array, "*B T D"],
    matrix: Float[Array, "V D"],
    tokens: Any,
    shared: Any,
    mask: Bool[Array, "*B T"],
    *,
    chunk_size: int,
    vocab_size: int,
    softcap: SoftCap = None,
    parts: int = 1,
) -> Float[Array, ""]:
    """Computes Σ `loss` of `hidden @ matrix.T` without building that product.

    Args:
      loss: what to compute from a row of logits.
      hidden: [..., T, D]; 0 where the mask is False.
      matrix: [V, D], the unembedding; its gradient has its dtype. If it is not differentiated
        (frozen under LoRA), no gradient array is built for it.
      tokens: arrays [..., T, ...] that belong to the tokens. No gradient.
      shared: arrays that belong to all tokens. No gradient.
      mask: [..., T] True = counts. Elsewhere hidden states have a gradient that means nothing.
      chunk_size: how many tokens' worth of logits may exist at once.
      vocab_size: rows of the unembedding that count; the ones after it are padding.
      softcap: of the logits, see `soft_cap`. No gradient.
      parts: over how many devices the first axis is split evenly. Each adds up a gradient of the
        unembedding of its own, and they meet once; added in every chunk if this is 1.

    Returns:
      A sum, differentiable once in `hidden` and `matrix` (reverse mode).

    Raises:
      ValueError: as `blockwise_loss`, or parts that do not divide the first axis.
    """
    check_sizes(chunk_size, vocab_size, len(matrix))
    if parts < 1 or hidden.ndim > 2 and hidden.shape[0] % parts:
        raise ValueError(f"parts = {parts}: does not divide the first axis of {hidden.shape}.")
    parts = parts if hidden.ndim > 2 else 1
    primals = hidden, matrix, tokens, shared, mask, softcap
    return _summed(loss, chunk_size, vocab_size, parts, *primals)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _summed(
    loss: BlockLoss,
    chunk_size: int,
    vocab_size: int,
    parts: int | None,
    hidden: Array,
    matrix: Array,
    tokens: Any,
    shared: Any,
    mask: Array,
    softcap: SoftCap,
) -> Array:
    cut, unembed = Cut.of(hidden, chunk_size), unembedding(hidden, chunk_size, vocab_size)

    def one_chunk(inputs: Any) -> Any:
        hidden, tokens = inputs
        logits = soft_cap(unembed(hidden, matrix), softcap)
        return loss.rows(logits, tokens, shared, unembed)[0]

    chunks = jax.tree.map(cut.split, (hidden, tokens))
    value = cut.join(cast(Any, lax.map(one_chunk, chunks)))
    return jnp.where(mask, value, 0).sum()


def _fwd(
    loss: BlockLoss, chunk_size: int, vocab_size: int, parts: int | None, *primals: Any
) -> Any:
    trained = primals[1].perturbed
    hidden, matrix, tokens, shared, mask, softcap = jax.tree.map(value_of, primals)
    cut, unembed = Cut.of(hidden, chunk_size), unembedding(hidden, chunk_size, vocab_size)
    wide, used = wide_of(hidden), matrix[:vocab_size].astype(hidden.dtype)

    def one_chunk(by_matrix: Array | None, inputs: Any) -> Any:
        hidden, tokens = inputs
        logits = soft_cap(unembed(hidden, matrix), softcap)
        value, slopes = loss.both(logits, tokens, shared, unembed)
        slopes = slopes * soft_cap_slope(logits, softcap)
        # Two products read the slopes; without the barrier XLA computes them anew for each.
        slopes = lax.optimization_barrier(slopes.astype(hidden.dtype))
        by_hidden = jnp.einsum("...v,vd->...d", slopes, used, preferred_element_type=wide)
        if by_matrix is not None:
            # [P, D, V]: that way around a CPU need not write the slopes anew in another order.
            rows = hidden.reshape(parts, -1, hidden.shape[-1])
            by_logit = slopes.reshape(parts, -1, vocab_size)
            by_matrix += jnp.einsum("ptd,ptv->pdv", rows, by_logit, preferred_element_type=wide)
        return by_matrix, (value, by_hidden)

    empty = None
    if trained:
        # Made from `hidden`, to be split over devices like it.
        first = jnp.zeros_like(hidden.reshape(parts, -1, hidden.shape[-1])[:, 0], wide)
        empty = jnp.broadcast_to(first[..., None], (*first.shape, vocab_size))
    chunks = jax.tree.map(cut.split, (hidden, tokens))
    by_matrix, (value, by_hidden) = lax.scan(one_chunk, empty, chunks)
    total = jnp.where(mask, cut.join(value), 0).sum()
    # Arrays of no size, for their dtypes.
    like = jnp.zeros((0,), hidden.dtype), jnp.zeros((len(matrix), 0), matrix.dtype)
    return total, (cut.join(by_hidden), by_matrix, like)


def _bwd(
    loss: BlockLoss,
    chunk_size: int,
    vocab_size: int,
    parts: int | None,
    saved: Any,
    cotangent: Array,
) -> tuple[Any, ...]:
    by_hidden, by_matrix, (hidden, matrix) = saved
    by_hidden = (by_hidden * cotangent).astype(hidden.dtype)
    if by_matrix is not None:
        by_matrix = (by_matrix.sum(axis=0).T * cotangent).astype(matrix.dtype)
        by_matrix = jnp.pad(by_matrix, ((0, len(matrix) - vocab_size), (0, 0)))
    return by_hidden, by_matrix, None, None, None, None


_summed.defvjp(_fwd, _bwd, symbolic_zeros=True)
