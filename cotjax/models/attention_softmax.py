"""Softmax attention over several sets of keys, whose backward pass stores no scores.

Scores [.., Q, S] are the largest arrays of a short-headed model, and each pass over them costs
memory traffic. Forward, every set of keys is walked on its own and merged by its largest score and
its sum; backward, scores are computed again from the logarithm of that sum:

    w = exp(s - lse),  ds = w · (dout·v - dout·out)

Source: Dao et al. 2022, arXiv:2205.14135 (FlashAttention), equations without its blocks.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cotjax.models.attention_scores import Scoring

NEGATIVE = -1e30  # finite, so that a query with nothing to attend to stays finite


class Keys(NamedTuple):
    """What queries [B, K, G, R, Q, D] see: R share a key head, G share the keys of a batch row.

    Attributes:
      key: [B, K, D, S] seen by all G, or [B, K, G, D, S].
      value: [B, K, S, D] or [B, K, G, S, D].
      seen: a mask that broadcasts against [B, K, G, R, Q, S].
    """

    key: Float[Array, "B K *G D S"]
    value: Float[Array, "B K *G S D"]
    seen: Bool[Array, "*N Q S"]


def attend(
    scoring: Scoring, query: Float[Array, "B K G R Q D"], sets: Sequence[Keys]
) -> Float[Array, "B K G R Q D"]:
    """One softmax over all sets of keys.

    Args:
      scoring: of the layer; its window is in the masks already.
      query: [B, K, G, R, Q, D].
      sets: keys, values and masks. Keys without a G axis are not copied G times: all queries of a
        batch row meet them in one product.

    Returns:
      values under the softmax, in their number format. A query that sees nothing gets an average
      of values and gives no gradient.
    """
    pairs = tuple((part.key, part.value) for part in sets)
    return _attend(scoring, query, pairs, tuple(part.seen for part in sets))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(scoring: Scoring, query: Array, pairs: Any, masks: tuple[Array, ...]) -> Array:
    return _forward(scoring, query, pairs, masks)[0]


def _forward(
    scoring: Scoring, query: Array, pairs: Any, masks: tuple[Array, ...]
) -> tuple[Array, Any]:
    scores = [
        jnp.where(seen, _scores(scoring, query, key), NEGATIVE)
        for (key, _), seen in zip(pairs, masks, strict=True)
    ]
    peak = functools.reduce(jnp.maximum, (s.max(axis=-1, keepdims=True) for s in scores))
    total, mixed = jnp.zeros_like(peak), jnp.zeros(query.shape, jnp.float32)
    for s, (_, value) in zip(scores, pairs, strict=True):
        weights = jnp.exp(s - peak)
        total = total + weights.sum(axis=-1, keepdims=True)
        product = scoring.product(_rows(weights.astype(value.dtype), value), value)
        mixed = mixed + product.reshape(query.shape)
    out = (mixed / total).astype(pairs[0][1].dtype)
    return out, (query, pairs, masks, out, peak + jnp.log(total))


def _backward(scoring: Scoring, saved: Any, by_out: Array) -> tuple[Any, ...]:
    query, pairs, masks, out, lse = saved
    drift = (by_out.astype(jnp.float32) * out).sum(axis=-1, keepdims=True)
    by_query, by_pairs = jnp.zeros(query.shape, jnp.float32), []
    for (key, value), seen in zip(pairs, masks, strict=True):
        queries, by_rows = _rows(query, key), _rows(by_out, key)
        scores, pull_back = jax.vjp(
            lambda x, width=query.shape[-1]: scoring.of_products(x, width),
            scoring.product(queries, key),
        )
        shape = (*query.shape[:-1], key.shape[-1])
        weights = jnp.where(seen, jnp.exp(scores.reshape(shape) - lse), 0)
        by_weights = scoring.product(by_rows, jnp.matrix_transpose(value)).astype(jnp.float32)
        by_scores = weights * (by_weights.reshape(shape) - drift)
        (by_products,) = pull_back(by_scores.reshape(scores.shape))
        by_products = by_products.astype(query.dtype)
        weights = weights.astype(value.dtype).reshape(scores.shape)
        # Scores are large and rows are narrow: it is always the rows that are transposed.
        by_key = scoring.product(jnp.matrix_transpose(queries), by_products)
        by_value = scoring.product(jnp.matrix_transpose(by_rows), weights)
        more = scoring.product(by_products, jnp.matrix_transpose(key))
        by_query = by_query + more.reshape(query.shape)
        by_value = jnp.matrix_transpose(by_value).astype(value.dtype)
        by_pairs.append((by_key.astype(key.dtype), by_value))
    return by_query.astype(query.dtype), tuple(by_pairs), None


_attend.defvjp(_forward, _backward)


def _rows(x: Float[Array, "B K G R Q N"], like: Array) -> Array:
    """All rows that meet the same keys as one matrix: [B, K, G·R·Q, N] or [B, K, G, R·Q, N]."""
    return x.reshape(*like.shape[:-2], -1, x.shape[-1])


def _scores(scoring: Scoring, query: Array, key: Array) -> Float[Array, "B K G R Q S"]:
    return scoring(_rows(query, key), key).reshape(*query.shape[:-1], key.shape[-1])
