"""Which token attends to which: one small class per shape of computation.

The transformer is written once and calls an `Attend` to mix tokens. Training on plain
sequences, training on a prompt shared by its G completions, prefilling and decoding differ only
in which `Attend` they pass. How scores are computed and how far back a layer sees belongs to the
layer, which passes a `Scoring`.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int

from cotjax.interfaces import Placement
from cotjax.models import attention_softmax as softmax
from cotjax.models import kv_cache
from cotjax.models.attention_scores import EVERYTHING, Scoring
from cotjax.models.kv_cache import Kept

LONG = 256  # tokens; a shorter row is one block, which compiles faster


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


def _kernel_of(placement: Placement) -> Any:
    """The module of an attention kernel, imported where one is used; None for matrix products."""
    if placement.attention == "flash":
        from cotjax.models import flash

        return flash
    if placement.attention == "cudnn":
        from cotjax.models import cudnn

        return cudnn
    return None


def _by_head(x: Float[Array, "B *S N D"]) -> Float[Array, "B N *S D"]:
    """Moves the heads to the front, where matrix products batch over them without a copy."""
    return jnp.moveaxis(x, -2, 1)


def _distance(query: Int[Array, " Q"], key: Int[Array, " S"]) -> Int[Array, "Q S"]:
    """How far before each query each key stands, in tokens."""
    return query[:, None] - key[None, :]


@dataclasses.dataclass(frozen=True)
class Causal:
    """Token s sees token s' <= s of its own segment, as far back as the layer's window.

    A segment's tokens are neighbours, so distances in the row are distances in the text.

    Attributes:
      segment: [B, S] integers; 0 is padding, equal positive numbers belong together. Packed
        examples carry 1, 2, 3, …; a left-padded prompt carries 0 … 0 1 … 1.
      keep_cache: also return key [B, K, D, S] and value [B, K, S, D], the layouts in which a
        decoder's matrix products read memory in order, as `kv_cache.Kept`.
      cache_dtype: in which format; None leaves them as computed.
      placement: on which mesh, and by which kernel.
    """

    segment: Int[Array, "B S"]
    keep_cache: bool = False
    cache_dtype: Any = None
    placement: Placement | None = None

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; `cache` is ignored."""
        del cache
        if self.placement and (kernel := _kernel_of(self.placement)):
            out = kernel.causal(query, key, value, self.segment, scoring, self.placement)
            return out, self._kept(jnp.moveaxis(key, 1, 3), _by_head(value))
        row = jnp.arange(query.shape[1])
        same = self.segment[:, :, None] == self.segment[:, None, :]
        seen = (scoring.sees(_distance(row, row)) & same)[:, None, None, None]
        key, value = jnp.matrix_transpose(_by_head(key)), _by_head(value)
        queries = _queries(query[:, None], key.shape[1])
        parts = []
        for start, stop in _steps(query.shape[1]):  # queries, which see no key behind them
            keys = softmax.Keys(key[..., :stop], value[..., :stop, :], seen[..., start:stop, :stop])
            parts.append(softmax.attend(scoring, queries[..., start:stop, :], [keys]))
        return _tokens(jnp.concatenate(parts, axis=-2))[:, 0], self._kept(key, value)

    def _kept(self, key: Array, value: Array) -> Any:
        if not self.keep_cache:
            return None
        keep = functools.partial(kv_cache.keep, dtype=self.cache_dtype)
        return keep(key, axis=-2), keep(value, axis=-1)


def _steps(length: int) -> list[tuple[int, int]]:
    """Cuts a row of tokens, so that over a third of a long one's scores are never computed."""
    size = -(-length // 4) if length >= LONG else length
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _queries(query: Float[Array, "B G Q H D"], num_kv: int) -> Float[Array, "B K G R Q D"]:
    """Queries by the key head that R of them share."""
    batch, group, size, _, width = query.shape
    return query.reshape(batch, group, size, num_kv, -1, width).transpose(0, 3, 1, 4, 2, 5)


def _tokens(mixed: Float[Array, "B K G R Q D"]) -> Float[Array, "B G Q H D"]:
    """The inverse of `_queries`."""
    batch, _, group, _, size, width = mixed.shape
    return mixed.transpose(0, 2, 4, 1, 3, 5).reshape(batch, group, size, -1, width)


@dataclasses.dataclass(frozen=True)
class SharedPrompt:
    """A prompt and its G completions in one row: every completion sees the prompt and itself.

    The row is `prompt (P) | completion 1 (T) | … | completion G (T)`, so the prompt passes
    through the network once, not G times. Prompts are padded on the left: completion token t
    stands P + t - p tokens behind prompt token p.

    Attributes:
      prompt_mask: [B, P] True where the left-padded prompt has a token.
      group_size: G.
      placement: on which mesh, and by which kernel.
    """

    prompt_mask: Bool[Array, "B P"]
    group_size: int
    placement: Placement | None = None

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; S = P + G·T; `cache` is ignored."""
        del cache
        if self.placement and (kernel := _kernel_of(self.placement)):
            shared = self.prompt_mask, self.group_size
            return kernel.shared_prompt(query, key, value, *shared, scoring, self.placement), None
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
        seen = _seen_of_prompt(self.prompt_mask, index, scoring)[:, None, None, None]
        own_key, own_value = jnp.matrix_transpose(_by_head(own_key)), _by_head(own_value)
        sets = [
            softmax.Keys(prompt_key.values, prompt_value.values, seen),
            softmax.Keys(own_key, own_value, scoring.sees(_distance(index, index))),
        ]
        own_out = _tokens(softmax.attend(scoring, _queries(own_query, key.shape[2]), sets))
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


def attend_part(
    scoring: Scoring, query: Array, key: Kept, value: Kept, seen: Bool[Array, "*B S"]
) -> Partial:
    """Attention of query [..., R, D] over key [..., D, S] and value [..., S, D] where `seen`."""
    products = key.scaled(scoring.product(query, key.values.astype(query.dtype)))
    scores = scoring.of_products(products, query.shape[-1])
    scores = jnp.where(seen, scores, softmax.NEGATIVE)
    peak = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    scaled = value.scaled(weights).astype(query.dtype)
    mixed = scoring.product(scaled, value.values.astype(query.dtype))
    return peak, weights.sum(axis=-1, keepdims=True), mixed.astype(jnp.float32)


def merge(one: Partial, other: Partial) -> Partial:
    """The softmax over the keys of both, still undivided.

    Source: Milakov and Gimelshein 2018, arXiv:1805.02867.
    """
    peak = jnp.maximum(one[0], other[0])
    scale, other_scale = jnp.exp(one[0] - peak), jnp.exp(other[0] - peak)
    total = one[1] * scale + other[1] * other_scale
    return peak, total, one[2] * scale + other[2] * other_scale


@dataclasses.dataclass(frozen=True)
class DecodeShared:
    """One new token for each of a prompt's G completions, which have equally many.

    Attributes:
      prompt_mask: [B, P].
      filled: [B] how many tokens the completions of each prompt already have in their own cache; a
        scalar where all prompts' have equally many, so that devices need not exchange it.
      clock: scalar, the column of the own cache where the new token goes, for all alike.
      placement: on which mesh.

    The layer's cache is (prompt key [B, K, D, P], prompt value [B, K, P, D], blocks), each block
    an own key [B, K, G, D, W] and value [B, K, G, W, D], all `Kept`; the blocks' columns together
    are a ring, in which the tokens before the new one stand in the columns before it. The new token
    is written before it is attended to. Reading the cache is what a step costs, so blocks of which
    no completion sees anything are not read.
    """

    prompt_mask: Bool[Array, "B P"]
    filled: Int[Array, " B"] | Int[Array, ""]
    clock: Int[Array, ""]
    placement: Placement | None = None

    def __call__(
        self, query: Array, key: Array, value: Array, cache: Any, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, Any]:
        """See `Attend`; S = G."""
        prompt_key, prompt_value, blocks = cache
        batch, group, heads, width = query.shape
        num_kv = key.shape[2]
        # R query heads share a key head: [B, K, G, R, D].
        query = jnp.moveaxis(query.reshape(batch, group, num_kv, -1, width), 1, 2)
        on = functools.partial(attend_part, scoring)
        # All completions of a prompt meet its keys in one product.
        on_prompt = on(
            query.reshape(batch, num_kv, -1, width),
            prompt_key,
            prompt_value,
            self._seen_of_prompt(scoring)[:, None, None],
        )
        mixed = tuple(part.reshape(*query.shape[:4], -1) for part in on_prompt)
        # A ring keeps what a row wrote for the slot's next rows, and 0 · NaN is NaN.
        finite = jnp.isfinite(key) & jnp.isfinite(value)
        key, value = jnp.where(finite, key, 0), jnp.where(finite, value, 0)
        dtype = prompt_key.values.dtype
        new_key = kv_cache.keep(_by_head(key)[..., None], dtype, axis=-2)
        new_value = kv_cache.keep(_by_head(value)[..., None, :], dtype, axis=-1)
        columns, start, written = sum(own.values.shape[-1] for own, _ in blocks), 0, []
        for own_key, own_value in blocks:
            at, size = self.clock - start, own_key.values.shape[-1]
            own_key = kv_cache.write(own_key, new_key, at, axis=-1)
            own_value = kv_cache.write(own_value, new_value, at, axis=-2)
            own_key = self._laid_out(own_key, (0, 1, 2, 4, 3))
            own_value = self._laid_out(own_value, (0, 1, 2, 3, 4))
            written.append((own_key, own_value))
            age = (at - jnp.arange(size)) % columns
            seen = scoring.sees(age) & (age <= self.filled.reshape(-1, 1))
            mixed = jax.lax.cond(
                seen.any(),
                lambda mixed, *own: merge(mixed, on(query, *own)),
                lambda mixed, *_: mixed,
                *(mixed, own_key, own_value, seen[:, None, None, None]),
            )
            start += size
        _, total, values = mixed
        out = jnp.moveaxis((values / total).astype(value.dtype), 2, 1)
        # Head by head, so that devices that split heads exchange nothing.
        out = jnp.where(finite.all(axis=3)[..., None, None], out, jnp.nan)
        return out.reshape(batch, group, heads, width), (prompt_key, prompt_value, written)

    def _laid_out(self, block: Kept, order: tuple[int, ...]) -> Kept:
        """On a TPU, the axes of a cache in memory, the last one the fastest.

        Left alone the compiler writes a column in one order and reads the block in another, which
        copies the whole cache for every token. Each device orders its own part: the constraint is
        on whole arrays, and would gather them.
        """
        if self.placement is None or self.placement.platform != "tpu":
            return block
        ordered = jax.shard_map(
            lambda values: with_layout_constraint(values, Layout(order)),
            mesh=self.placement.mesh,
            in_specs=(place := self.placement.split(self.placement.heads).spec),
            out_specs=place,
        )
        return block._replace(values=ordered(block.values))

    def _seen_of_prompt(self, scoring: Scoring) -> Bool[Array, "B P"]:
        num_prompt = self.prompt_mask.shape[-1]
        distance = num_prompt + self.filled.reshape(-1, 1) - jnp.arange(num_prompt)
        return self.prompt_mask & scoring.sees(distance)
