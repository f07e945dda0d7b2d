"""Losses of logits that are never whole: hidden states times unembedding, a block at a time.

The forward pass walks over the tokens, a few at a time with the whole vocabulary, so that a loss
sees complete rows; it keeps a few numbers per token. The backward pass walks over the vocabulary, a
few rows of the unembedding at a time with all tokens, so that each row of its gradient is one sum
over tokens, accumulated in float32 and written once: token by token it would need a second
[V, D] array in float32. Both walks hold about chunk_size · V logits of a model.

`summed` has the sum over tokens, which needs one walk only.
"""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from cotjax.core.softcap import SoftCap, soft_cap, soft_cap_slope

LANES = 128  # columns that a TPU register holds

Unembed = Callable[[Float[Array, "*B C D"], Float[Array, "V D"]], Float[Array, "*B C W"]]


class BlockLoss(Protocol):
    """A loss per token that can be differentiated in parts. Hashable: it is a static argument.

    `tokens` is a pytree of arrays whose axes begin with those of a token, `shared` one of arrays
    that all tokens use; neither receives a gradient. `unembed` gives the logits of another model
    for the same tokens and vocabulary entries as `logits`.
    """

    def rows(
        self, logits: Float[Array, "*B C V"], tokens: Any, shared: Any, unembed: Unembed
    ) -> tuple[Float[Array, "*B C"], Any]:
        """Values of some tokens from all their logits, and numbers per token for `slopes`."""
        ...

    def slopes(
        self,
        logits: Float[Array, "*B T W"],
        saved: Any,
        tokens: Any,
        shared: Any,
        unembed: Unembed,
        start: Array,
    ) -> Float[Array, "*B T W"]:
        """∂value/∂logits of all tokens, for the vocabulary entries from `start`."""
        ...

    def both(
        self, logits: Float[Array, "*B C V"], tokens: Any, shared: Any, unembed: Unembed
    ) -> tuple[Float[Array, "*B C"], Float[Array, "*B C V"]]:
        """Values of some tokens and ∂value/∂logits, from all their logits."""
        ...


def blockwise_loss(
    loss: BlockLoss,
    hidden: Float[Array, "*B T D"],
    matrix: Float[Array, "V D"],
    tokens: Any,
    shared: Any,
    *,
    chunk_size: int,
    vocab_size: int,
    softcap: SoftCap = None,
) -> Float[Array, "*B T"]:
    """Computes `loss` of `hidden @ matrix.T` without building that product.

    Args:
      loss: what to compute from a row of logits.
      hidden: [..., T, D].
      matrix: [V, D], the unembedding; its gradient has its dtype. If it is not differentiated
        (frozen under LoRA), no gradient array is built for it.
      tokens: arrays [..., T, ...] that belong to the tokens. No gradient.
      shared: arrays that belong to all tokens. No gradient.
      chunk_size: how many tokens' worth of logits may exist at once.
      vocab_size: rows of the unembedding that count; the ones after it are padding.
      softcap: of the logits, see `soft_cap`. No gradient.

    Returns:
      [..., T], differentiable once in `hidden` and `matrix` (reverse mode).

    Raises:
      ValueError: chunk_size < 1, or more vocabulary than the unembedding has rows.
    """
    check_sizes(chunk_size, vocab_size, len(matrix))
    return _blockwise(loss, chunk_size, vocab_size, hidden, matrix, tokens, shared, softcap)


def check_sizes(chunk_size: int, vocab_size: int, rows: int) -> None:
    """A ValueError for a chunk without a token, or more vocabulary than rows of an unembedding."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size}: a chunk needs at least 1 token.")
    if not 1 <= vocab_size <= rows:
        raise ValueError(f"vocab_size = {vocab_size}: the unembedding has {rows} rows.")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _blockwise(loss: BlockLoss, chunk_size: int, vocab_size: int, *primals: Any) -> Array:
    return _forward(loss, chunk_size, vocab_size, *primals)[0]


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the tokens are cut into chunks.

    Chunks run along T and keep the leading axes whole, so a sharded batch stays where it is.

    Attributes:
      axis: of T.
      length: T.
      chunk: of T, in a chunk.
    """

    axis: int
    length: int
    chunk: int

    @staticmethod
    def of(hidden: Float[Array, "*B T D"], chunk_size: int) -> "Cut":
        """As few chunks as chunk_size allows, of equal length, so that few tokens are padding."""
        axis = hidden.ndim - 2
        length = hidden.shape[axis]
        most = max(1, min(length, chunk_size // max(1, math.prod(hidden.shape[:axis]))))
        return Cut(axis, length, -(-length // max(1, -(-length // most))))

    def split(self, x: Array) -> Array:
        """[*B, T, ...] to [N, *B, C, ...]; what is added at the end is 0."""
        axis = self.axis
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, -self.length % self.chunk)
        x = jnp.pad(x, padding)
        x = x.reshape(*x.shape[:axis], -1, self.chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def join(self, x: Array) -> Array:
        """The reverse of `split`."""
        x = jnp.moveaxis(x, 0, self.axis)
        x = x.reshape(*x.shape[: self.axis], -1, *x.shape[self.axis + 2 :])
        return lax.slice_in_dim(x, 0, self.length, axis=self.axis)


def unembedding(hidden: Float[Array, "*B T D"], chunk_size: int, vocab_size: int) -> Unembed:
    """Logits of a chunk for all of the vocabulary."""
    block = _block_size(hidden, chunk_size, vocab_size)
    return functools.partial(_all_logits, vocab_size=vocab_size, block=block)


def _forward(
    loss: BlockLoss,
    chunk_size: int,
    vocab_size: int,
    hidden: Array,
    matrix: Array,
    tokens: Any,
    shared: Any,
    softcap: SoftCap,
) -> Any:
    cut = Cut.of(hidden, chunk_size)
    unembed = unembedding(hidden, chunk_size, vocab_size)

    def one_chunk(inputs: Any) -> Any:
        hidden, tokens = inputs
        return loss.rows(soft_cap(unembed(hidden, matrix), softcap), tokens, shared, unembed)

    parts = cast(Any, lax.map(one_chunk, jax.tree.map(cut.split, (hidden, tokens))))
    return jax.tree.map(cut.join, parts)


def _fwd(loss: BlockLoss, chunk_size: int, vocab_size: int, *primals: Any) -> Any:
    values = jax.tree.map(value_of, primals)
    value, saved = _forward(loss, chunk_size, vocab_size, *values)
    # () or None is part of the tree, so the backward pass knows it while tracing.
    trained = () if primals[1].perturbed else None
    return value, (*values, saved, trained)


def _bwd(
    loss: BlockLoss, chunk_size: int, vocab_size: int, residuals: Any, cotangent: Array
) -> tuple[Any, ...]:
    hidden, matrix, tokens, shared, softcap, saved, trained = residuals
    block = _block_size(hidden, chunk_size, vocab_size)
    wide = wide_of(hidden)

    def one_block(carry: Any, first: Array) -> tuple[Any, None]:
        d_hidden, d_matrix = carry
        # The last block overlaps its neighbour instead of running over the edge.
        start = jnp.minimum(first, vocab_size - block)
        rows = _rows(hidden, matrix, start, block)
        unembed = functools.partial(_block_logits, start=start, block=block)
        logits = soft_cap(_product(hidden, rows), softcap)
        slopes = loss.slopes(logits, saved, tokens, shared, unembed, start)
        slopes = slopes * soft_cap_slope(logits, softcap)
        # Two products read the slopes; without the barrier XLA computes them anew for each.
        slopes = lax.optimization_barrier((slopes * cotangent[..., None]).astype(hidden.dtype))
        new = jnp.where(start + jnp.arange(block) >= first, slopes, 0)
        d_hidden += jnp.einsum("...w,wd->...d", new, rows, preferred_element_type=wide)
        if trained is not None:
            d_rows = rows_gradient(slopes, hidden).astype(matrix.dtype)
            d_matrix = lax.dynamic_update_slice_in_dim(d_matrix, d_rows, start, 0)
        return (d_hidden, d_matrix), None

    empty = jnp.zeros_like(hidden, wide), None if trained is None else jnp.zeros_like(matrix)
    (d_hidden, d_matrix), _ = lax.scan(one_block, empty, _firsts(vocab_size, block))
    return d_hidden.astype(hidden.dtype), d_matrix, None, None, None


_blockwise.defvjp(_fwd, _bwd, symbolic_zeros=True)


def value_of(primal: Any) -> Any:
    """What a forward rule is given of a primal under `symbolic_zeros`."""
    return primal.value


def rows_gradient(
    slopes: Float[Array, "*B T W"], hidden: Float[Array, "*B T D"]
) -> Float[Array, "W D"]:
    """Σ_t slopes_tw hidden_td: the gradient of W rows of an unembedding, in `wide_of` hidden.

    Taken as [D, W] and transposed behind a barrier: the product wants its first factor transposed,
    and the other way around a CPU writes the wide slopes anew, in strided order.
    """
    axes = tuple(range(hidden.ndim - 1))
    product = lax.dot_general(
        hidden, slopes, ((axes, axes), ((), ())), preferred_element_type=wide_of(hidden)
    )
    return lax.optimization_barrier(product).T


def _block_size(hidden: Array, chunk_size: int, vocab_size: int) -> int:
    # Vocabulary entries per block, so that all tokens' logits for it are chunk_size · V numbers.
    count = math.prod(hidden.shape[:-1])
    block = max(LANES, chunk_size * vocab_size // max(count, 1) // LANES * LANES)
    # As few blocks as that allows, of equal width, so that the last one overlaps little.
    block = -(-vocab_size // -(-vocab_size // block))
    return min(vocab_size, -(-block // LANES) * LANES)


def _firsts(vocab_size: int, block: int) -> Array:
    return jnp.arange(0, vocab_size, block, dtype=jnp.int32)


def wide_of(hidden: Array) -> Any:
    """The dtype in which products of hidden states are summed."""
    return jnp.dtype(jnp.float32) if hidden.dtype.itemsize < 4 else hidden.dtype


def _rows(hidden: Array, matrix: Array, start: Array, block: int) -> Array:
    # Without the barrier XLA's CPU backend widens all of a bfloat16 matrix before the loop.
    matrix, start = lax.optimization_barrier((matrix, start))
    return lax.dynamic_slice_in_dim(matrix, start, block).astype(hidden.dtype)


def _product(hidden: Array, rows: Array) -> Array:
    return jnp.einsum("...d,wd->...w", hidden, rows, preferred_element_type=wide_of(hidden))


def _block_logits(hidden: Array, matrix: Array, start: Array, block: int) -> Array:
    return _product(hidden, _rows(hidden, matrix, start, block))


def _all_logits(hidden: Array, matrix: Array, vocab_size: int, block: int) -> Array:
    if matrix.dtype == hidden.dtype == wide_of(hidden):
        return _product(hidden, matrix[:vocab_size])

    def one_block(logits: Array, first: Array) -> tuple[Any, None]:
        start = jnp.minimum(first, vocab_size - block)
        part = _block_logits(hidden, matrix, start, block)
        return lax.dynamic_update_slice_in_dim(logits, part, start, logits.ndim - 1), None

    # Made from `hidden`, to be sharded like it.
    column = jnp.zeros_like(hidden[..., :1], wide_of(hidden))
    empty = jnp.broadcast_to(column, (*hidden.shape[:-1], vocab_size))
    return lax.scan(one_block, empty, _firsts(vocab_size, block))[0]
