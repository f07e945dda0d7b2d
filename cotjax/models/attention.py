"""Who may attend to whom: one small class per shape of computation.

The transformer is written once and asks an `Attend` for the mixing of tokens. Training on plain
sequences, training on a prompt shared by its G completions, prefilling and decoding differ only
in which `Attend` they pass.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Attend(Protocol):
    """Mixes tokens: queries in, attended values out, and what the layer leaves for later calls."""

    def __call__(
        self,
        query: Float[Array, "B S H D"],
        key: Float[Array, "B S K D"],
        value: Float[Array, "B S K D"],
        cache: Any,
    ) -> tuple[Float[Array, "B S H D"], Any]:
        """Returns the attended values and this layer's new cache (or None)."""
        ...


def _scores(query: Array, key: Array) -> Array:
    """[..., Q, K, R, D] x [..., S, K, D] -> float32 [..., K, R, Q, S], scaled by 1/sqrt(D)."""
    scale = query.shape[-1] ** -0.5
    return jnp.einsum(
        "...qkrd,...skd->...krqs", query * scale, key, preferred_element_type=jnp.float32
    )


def _mix(weight: Array, value: Array) -> Array:
    """[..., K, R, Q, S] x [..., S, K, D] -> [..., Q, K, R, D]."""
    return jnp.einsum("...krqs,...skd->...qkrd", weight.astype(value.dtype), value)


def _split_heads(query: Array, num_kv: int) -> Array:
    """[..., H, D] -> [..., K, R, D]: R query heads share one of the K key heads."""
    *lead, heads, width = query.shape
    return query.reshape(*lead, num_kv, heads // num_kv, width)


_NEGATIVE = -1e30  # finite, so that a row with nothing to attend to stays finite


@dataclasses.dataclass(frozen=True)
class Causal:
    """Token s sees token s' <= s of its own segment.

    Attributes:
      segment: [B, S] integers; 0 is padding, equal positive numbers belong together. Packed
        examples carry 1, 2, 3, …; a left-padded prompt carries 0 … 0 1 … 1.
      keep_cache: return (key, value) so that a decoder can continue from here.
    """

    segment: Int[Array, "B S"]
    keep_cache: bool = False

    def __call__(self, query: Array, key: Array, value: Array, cache: Any) -> tuple[Array, Any]:
        """See `Attend`; `cache` is ignored."""
        del cache
        size = self.segment.shape[-1]
        causal = jnp.tril(jnp.ones((size, size), bool))
        mask = causal & (self.segment[:, :, None] == self.segment[:, None, :])
        out = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None])
        return out, (key, value) if self.keep_cache else None


@dataclasses.dataclass(frozen=True)
class SharedPrompt:
    """A prompt and its G completions in one row: every completion sees the prompt and itself.

    The row is `prompt (P) | completion 1 (T) | … | completion G (T)`, so the prompt passes
    through the network once, not G times.

    Attributes:
      prompt_mask: [B, P] True where the left-padded prompt has a token.
      group_size: G.
    """

    prompt_mask: Bool[Array, "B P"]
    group_size: int

    def __call__(self, query: Array, key: Array, value: Array, cache: Any) -> tuple[Array, Any]:
        """See `Attend`; S = P + G·T; `cache` is ignored."""
        del cache
        num_prompt = self.prompt_mask.shape[-1]
        prompt = Causal(self.prompt_mask.astype(jnp.int32))
        prompt_out, _ = prompt(*(x[:, :num_prompt] for x in (query, key, value)), None)
        # [B, G·T, …] -> [B, G, T, …]
        query, own_key, own_value = (
            x[:, num_prompt:].reshape(x.shape[0], self.group_size, -1, *x.shape[2:])
            for x in (query, key, value)
        )
        out = _attend_prompt_and_own(
            query,
            (key[:, :num_prompt], value[:, :num_prompt], self.prompt_mask),
            (own_key, own_value, jnp.tril(jnp.ones((query.shape[2],) * 2, bool))),
        )
        completions_out = out.reshape(out.shape[0], -1, *out.shape[3:])
        return jnp.concatenate([prompt_out, completions_out], axis=1), None


def _attend_prompt_and_own(
    query: Float[Array, "B G Q H D"],
    prompt: tuple[Array, Array, Array],
    own: tuple[Array, Array, Array],
) -> Float[Array, "B G Q H D"]:
    """One softmax over the shared prompt's keys and the completion's own keys.

    Args:
      query: [B, G, Q, H, D].
      prompt: key and value [B, P, K, D], mask [B, P]; never copied G times.
      own: key and value [B, G, T, K, D], mask [Q, T] or broadcastable to [B, G, K, R, Q, T].

    Returns:
      [B, G, Q, H, D].
    """
    prompt_key, prompt_value, prompt_mask = prompt
    own_key, own_value, own_mask = own
    batch, group, num_query, heads, width = query.shape
    split = _split_heads(query, own_key.shape[-2])
    # All G·Q queries of a prompt meet its keys in one matrix product.
    flat = split.reshape(batch, group * num_query, *split.shape[3:])
    on_prompt = _scores(flat, prompt_key)  # [B, K, R, G·Q, P]
    on_prompt = jnp.where(prompt_mask[:, None, None, None], on_prompt, _NEGATIVE)
    on_own = jnp.where(own_mask, _scores(split, own_key), _NEGATIVE)  # [B, G, K, R, Q, T]

    num_prompt = prompt_key.shape[1]
    by_group = on_prompt.reshape(*on_prompt.shape[:3], group, num_query, num_prompt)
    by_group = jnp.moveaxis(by_group, 3, 1)  # [B, G, K, R, Q, P]
    weight = jax.nn.softmax(jnp.concatenate([by_group, on_own], axis=-1), axis=-1)
    to_prompt = jnp.moveaxis(weight[..., :num_prompt], 1, 3).reshape(on_prompt.shape)
    from_prompt = _mix(to_prompt, prompt_value).reshape(split.shape)
    mixed = from_prompt + _mix(weight[..., num_prompt:], own_value)
    return mixed.reshape(batch, group, num_query, heads, width)


@dataclasses.dataclass(frozen=True)
class DecodeShared:
    """One new token for each of a prompt's G completions, at the same decoding index.

    Attributes:
      prompt_mask: [B, P].
      group_size: G.
      index: scalar, how many tokens each completion already has in its own cache.

    The layer's cache is (prompt key, prompt value [B, P, K, D], own key, own value
    [B, G, T, K, D]); the new token is written at `index` before it is attended to.
    """

    prompt_mask: Bool[Array, "B P"]
    group_size: int
    index: Int[Array, ""]

    def __call__(self, query: Array, key: Array, value: Array, cache: Any) -> tuple[Array, Any]:
        """See `Attend`; S = G."""
        prompt_key, prompt_value, own_key, own_value = cache
        own_key = jax.lax.dynamic_update_slice_in_dim(own_key, key[:, :, None], self.index, axis=2)
        own_value = jax.lax.dynamic_update_slice_in_dim(
            own_value, value[:, :, None], self.index, axis=2
        )
        seen = jnp.arange(own_key.shape[2]) <= self.index
        out = _attend_prompt_and_own(
            query[:, :, None],
            (prompt_key, prompt_value, self.prompt_mask),
            (own_key, own_value, seen),
        )
        return out[:, :, 0], (prompt_key, prompt_value, own_key, own_value)
