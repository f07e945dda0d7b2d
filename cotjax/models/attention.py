"""Who may attend to whom: one small class per shape of computation.

The transformer is written once and asks an `Attend` for the mixing of tokens. Training on plain
sequences, training on a prompt shared by its G completions, prefilling and decoding differ only
in which `Attend` they pass. How scores are computed and how far a layer looks back is the layer's
business: it hands over a `Scoring`.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cotjax.interfaces import Placement
from cotjax.models import flash
from cotjax.models.scoring import EVERYTHING, Scoring


class Attend(Protocol):
    """Mixes tokens: queries in, attended values out, and what the layer leaves for later calls."""

    def __call__(
        self,
        query: Float[Array, "B S H D"],
        key: Float[Array, "B S K D"],
        value: Float[Array, "B S K D"],
        cache: Any,
        scoring: Scoring = EVERYTHING,
    ) -> tuple[Float[Array, "B S H D"], Any]:
        """Returns the attended values and this layer's new cache (or None)."""
        ...


_NEGATIVE = -1e30  # finite, so that a query with nothing to attend to stays finite


def _by_head(x: Float[Array, "B *S N D"]) -> Float[Array, "B N *S D"]:
    """Moves the heads to the front, where matrix products batch over them without a copy."""
    return jnp.moveaxis(x, -2, 1)


def _distance(query: Int[Array, " Q"], key: Int[Array, " S"]) -> Int[Array, "Q S"]:
    """How far before each query each key stands, in tokens."""
    return query[:, None] - key[None, :]


@dataclasses.dataclass(frozen=True)
class Causal:
    """Token s sees token s' <= s of its own segment, as far back as the layer looks.

    A segment's tokens are neighbours, so distances in the row are distances in the text.

    Attributes:
      segment: [B, S] integers; 0 is padding, equal positive numbers belong together. Packed
        examples carry 1, 2, 3, …; a left-padded prompt carries 0 … 0 1 … 1.
      keep_cache: also return key [B, K, D, S] and value [B, K, S, D], the layouts in which a
        decoder's matrix products read memory in order.
      placement: on which mesh, and whether by the flash kernel.
    """

    segment: Int[Array, "B S"]
    keep_cache: bool = False
    placement: Placement | None = None

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; `cache` is ignored."""
        del cache
        if self.placement and self.placement.flash:
            out = flash.causal(query, key, value, self.segment, scoring, self.placement)
            cached = jnp.moveaxis(key, 1, 3), _by_head(value)
            return out, cached if self.keep_cache else None
        batch, size, heads, width = query.shape
        num_kv = key.shape[2]
        # R query heads share a key head: they are rows of one product, [B, K, R·S, D].
        query = _by_head(query).reshape(batch, num_kv, -1, width)
        key, value = jnp.matrix_transpose(_by_head(key)), _by_head(value)
        row = jnp.arange(size)
        same = self.segment[:, :, None] == self.segment[:, None, :]
        mask = scoring.sees(_distance(row, row)) & same
        scores = scoring(query, key).reshape(batch, heads, size, size)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, _NEGATIVE), axis=-1)
        mixed = weights.astype(value.dtype).reshape(batch, num_kv, -1, size) @ value
        out = jnp.moveaxis(mixed.reshape(batch, heads, size, width), 1, 2)
        return out, (key, value) if self.keep_cache else None


def _attend_prompt_and_own(
    query: Float[Array, "B G Q H D"],
    prompt: tuple[Array, Array, Array],
    own: tuple[Array, Array, Array],
    scoring: Scoring,
) -> Float[Array, "B G Q H D"]:
    """One softmax over the shared prompt's keys and each completion's own keys.

    Args:
      query: [B, G, Q, H, D].
      prompt: key [B, K, D, P], value [B, K, P, D], mask [B, Q, P] ([B, 1, P] where all queries
        see the same); never copied G times, all G·Q queries of a prompt meet them in one product.
      own: key [B, K, G, D, T], value [B, K, G, T, D], mask [Q, T].
      scoring: of the layer; its window is in the masks already.

    Returns:
      [B, G, Q, H, D].
    """
    prompt_key, prompt_value, prompt_mask = prompt
    own_key, own_value, own_mask = own
    batch, group, num_query, heads, width = query.shape
    num_kv, num_prompt = prompt_key.shape[1], prompt_key.shape[-1]
    lead = (batch, num_kv, group)
    # [B, G, Q, K, R, D] -> [B, K, G, R·Q, D]
    query = query.reshape(batch, group, num_query, num_kv, -1, width)
    query = query.transpose(0, 3, 1, 4, 2, 5).reshape(*lead, -1, width)

    def masked(scores: Array, mask: Array) -> Array:
        scores = scores.reshape(*lead, -1, num_query, scores.shape[-1])
        return jnp.where(mask, scores, _NEGATIVE).reshape(*lead, -1, scores.shape[-1])

    on_prompt = scoring(query.reshape(batch, num_kv, -1, width), prompt_key)
    on_prompt = masked(on_prompt, prompt_mask[:, None, None, None])
    on_own = masked(scoring(query, own_key), own_mask)
    weights = jax.nn.softmax(jnp.concatenate([on_prompt, on_own], axis=-1), axis=-1)
    weights = weights.astype(own_value.dtype)

    to_prompt = weights[..., :num_prompt].reshape(batch, num_kv, -1, num_prompt)
    from_prompt = scoring.product(to_prompt, prompt_value).reshape(query.shape)
    mixed = from_prompt + scoring.product(weights[..., num_prompt:], own_value)
    mixed = mixed.astype(own_value.dtype).reshape(*lead, -1, num_query, width)
    mixed = mixed.transpose(0, 2, 4, 1, 3, 5)
    return mixed.reshape(batch, group, num_query, heads, width)


@dataclasses.dataclass(frozen=True)
class SharedPrompt:
    """A prompt and its G completions in one row: every completion sees the prompt and itself.

    The row is `prompt (P) | completion 1 (T) | … | completion G (T)`, so the prompt passes
    through the network once, not G times. Prompts are padded on the left: completion token t
    stands P + t - p tokens behind prompt token p.

    Attributes:
      prompt_mask: [B, P] True where the left-padded prompt has a token.
      group_size: G.
      placement: on which mesh, and whether by the flash kernel.
    """

    prompt_mask: Bool[Array, "B P"]
    group_size: int
    placement: Placement | None = None

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; S = P + G·T; `cache` is ignored."""
        del cache
        if self.placement and self.placement.flash:
            shared = self.prompt_mask, self.group_size
            return flash.shared_prompt(query, key, value, *shared, scoring, self.placement), None
        num_prompt = self.prompt_mask.shape[-1]
        attend_prompt = Causal(self.prompt_mask.astype(jnp.int32), keep_cache=True)
        prompt_out, (prompt_key, prompt_value) = attend_prompt(
            query[:, :num_prompt], key[:, :num_prompt], value[:, :num_prompt], None, scoring
        )
        own_query, own_key, own_value = (
            x[:, num_prompt:].reshape(x.shape[0], self.group_size, -1, *x.shape[2:])
            for x in (query, key, value)
        )
        index = jnp.arange(own_query.shape[2])
        own_out = _attend_prompt_and_own(
            own_query,
            (prompt_key, prompt_value, _seen_of_prompt(self.prompt_mask, index, scoring)),
            (
                jnp.matrix_transpose(_by_head(own_key)),
                _by_head(own_value),
                scoring.sees(_distance(index, index)),
            ),
            scoring,
        )
        own_out = own_out.reshape(query.shape[0], -1, *query.shape[2:])
        return jnp.concatenate([prompt_out, own_out], axis=1), None


def _seen_of_prompt(
    mask: Bool[Array, "B P"], index: Int[Array, " Q"], scoring: Scoring
) -> Bool[Array, "B Q P"]:
    """Which prompt tokens the completion tokens number `index` see; Q is 1 if all see the same."""
    if not scoring.window:
        return mask[:, None]
    num_prompt = mask.shape[-1]
    return mask[:, None] & scoring.sees(_distance(num_prompt + index, jnp.arange(num_prompt)))


# Softmax over some of the keys, before division: largest score, sum of exponentials, and the
# values summed under them. Two such partial results merge into that over both sets of keys.
Partial = tuple[Array, Array, Array]


def _attend_part(
    scoring: Scoring, query: Array, key: Array, value: Array, seen: Bool[Array, "*B S"]
) -> Partial:
    """Attention of query [..., R, D] over key [..., D, S] and value [..., S, D] where `seen`."""
    scores = jnp.where(seen, scoring(query, key), _NEGATIVE)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    mixed = scoring.product(weights.astype(value.dtype), value)
    return peak, weights.sum(axis=-1, keepdims=True), mixed.astype(jnp.float32)


def _merge(one: Partial, other: Partial) -> Partial:
    """The softmax over the keys of both, still undivided.

    Source: Milakov and Gimelshein 2018, arXiv:1805.02867.
    """
    peak = jnp.maximum(one[0], other[0])
    scale, other_scale = jnp.exp(one[0] - peak), jnp.exp(other[0] - peak)
    total = one[1] * scale + other[1] * other_scale
    return peak, total, one[2] * scale + other[2] * other_scale


def _write(block: Array, column: Array, at: Array, axis: int) -> Array:
    """Puts a column at index `at` of a block; outside of the block nothing changes."""
    size = block.shape[axis]
    place = jnp.clip(at, 0, size - 1)
    old = jax.lax.dynamic_slice_in_dim(block, place, 1, axis)
    column = jnp.where((at >= 0) & (at < size), column, old)
    return jax.lax.dynamic_update_slice_in_dim(block, column, place, axis)


@dataclasses.dataclass(frozen=True)
class DecodeShared:
    """One new token for each of a prompt's G completions, at the same decoding index.

    Attributes:
      prompt_mask: [B, P].
      index: scalar, how many tokens each completion already has in its own cache.

    The layer's cache is (prompt key [B, K, D, P], prompt value [B, K, P, D], blocks), each block
    an own key [B, K, G, D, W] and value [B, K, G, W, D] of W consecutive tokens. The new token is
    written at `index` before it is attended to. Reading the cache is what a step costs, so blocks
    that hold nothing the token sees are not read.
    """

    prompt_mask: Bool[Array, "B P"]
    index: Int[Array, ""]

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; S = G."""
        prompt_key, prompt_value, blocks = cache
        batch, group, heads, width = query.shape
        num_kv = key.shape[2]
        # R query heads share a key head: [B, K, G, R, D].
        query = jnp.moveaxis(query.reshape(batch, group, num_kv, -1, width), 1, 2)
        attend_part = functools.partial(_attend_part, scoring)
        # All completions of a prompt meet its keys in one product.
        on_prompt = attend_part(
            query.reshape(batch, num_kv, -1, width),
            prompt_key,
            prompt_value,
            _seen_of_prompt(self.prompt_mask, self.index[None], scoring)[:, None],
        )
        mixed = tuple(part.reshape(*query.shape[:4], -1) for part in on_prompt)
        new_key, new_value = _by_head(key)[..., None], _by_head(value)[..., None, :]
        at, written = self.index, []
        for own_key, own_value in blocks:
            own_key = _write(own_key, new_key, at, axis=4)
            own_value = _write(own_value, new_value, at, axis=3)
            written.append((own_key, own_value))
            seen = scoring.sees(at - jnp.arange(own_key.shape[-1]))
            mixed = jax.lax.cond(
                seen.any(),
                lambda mixed, *own: _merge(mixed, attend_part(query, *own)),
                lambda mixed, *_: mixed,
                *(mixed, own_key, own_value, seen),
            )
            at = at - own_key.shape[-1]
        _, total, values = mixed
        out = jnp.moveaxis((values / total).astype(value.dtype), 2, 1)
        return out.reshape(batch, group, heads, width), (prompt_key, prompt_value, written)
