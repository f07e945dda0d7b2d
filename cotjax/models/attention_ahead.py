"""Several new tokens for each of a prompt's completions, which may have unequally many."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cotjax.models import kv_cache
from cotjax.models.attention import attend_part, merge
from cotjax.models.attention_scores import EVERYTHING, Scoring
from cotjax.models.kv_cache import Kept

PARTS = 4  # a cache is read as far as any completion fills it, in quarters
SHORT = 256  # tokens; a shorter cache is read whole, in a shorter program


@dataclasses.dataclass(frozen=True)
class DecodeAhead:
    """Q new tokens of each of a prompt's G completions, each of which sees those before it.

    Attributes:
      prompt_mask: [B, P].
      filled: [B, G] how many tokens each completion has in its own cache, in the first columns.
      size: Q.

    The layer's cache is (prompt key [B, K, D, P], prompt value [B, K, P, D], [(own key
    [B, K, G, D, C], own value [B, K, G, C, D])]), all `Kept`. The new tokens are written behind
    those that are there, before they are attended to.
    """

    prompt_mask: Bool[Array, "B P"]
    filled: Int[Array, "B G"]
    size: int

    def __call__(
        self, query: Array, key: Array, value: Array, cache: tuple, scoring: Scoring = EVERYTHING
    ) -> tuple[Array, tuple]:
        """See `Attend`; S = G·Q."""
        prompt_key, prompt_value, [(own_key, own_value)] = cache
        (batch, _, heads, width), num_kv = query.shape, key.shape[2]
        group, size = self.filled.shape[1], self.size
        # R query heads share a key head: [B, K, G, R·Q, D].
        query = query.reshape(batch, group, size, num_kv, -1, width).transpose(0, 3, 1, 4, 2, 5)
        share = query.shape[3]
        query = query.reshape(batch, num_kv, group, -1, width)
        on_prompt = attend_part(
            scoring,
            query.reshape(batch, num_kv, -1, width),
            prompt_key,
            prompt_value,
            self._seen_of_prompt(scoring, share),
        )
        peak, weight, summed = (part.reshape(*query.shape[:4], -1) for part in on_prompt)
        # A column may be read before its next token is written, and 0 · NaN is NaN.
        finite = jnp.isfinite(key) & jnp.isfinite(value)
        key, value = jnp.where(finite, key, 0), jnp.where(finite, value, 0)
        own_key = self._written(own_key, key, prompt_key.values.dtype, axis=-2)
        own_value = self._written(own_value, value, prompt_key.values.dtype, axis=-1)
        seen = self._seen_of_own(scoring, own_key.values.shape[-1], share)
        own = self._on_own(scoring, query, own_key, own_value, seen)
        _, total, values = merge((peak, weight, summed), own)
        out = (values / total).astype(value.dtype)
        out = out.reshape(batch, num_kv, group, share, size, width).transpose(0, 2, 4, 1, 3, 5)
        out = out.reshape(batch, group * size, num_kv, share, width)
        out = jnp.where(finite.all(axis=3)[..., None, None], out, jnp.nan)
        cache = prompt_key, prompt_value, [(own_key, own_value)]
        return out.reshape(batch, group * size, heads, width), cache

    def _written(self, block: Kept, new: Array, dtype: object, *, axis: int) -> Kept:
        """Puts keys or values [B, G·Q, K, D] behind what each completion has."""
        batch, _, num_kv, width = new.shape
        new = new.reshape(batch, -1, self.size, num_kv, width).transpose(0, 3, 1, 2, 4)
        kept = kv_cache.keep(new.mT if axis == -2 else new, dtype, axis=axis)

        def put(old: Array, tokens: Array, along: int) -> Array:
            place = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=along)
            by_completion = jax.vmap(place, in_axes=(1, 1, 0), out_axes=1)
            return jax.vmap(by_completion)(old, tokens, self.filled)

        values = put(block.values, kept.values, -1 if axis == -2 else -2)
        if block.scale is None or kept.scale is None:
            return Kept(values)
        return Kept(values, put(block.scale, kept.scale, -1))

    def _on_own(
        self, scoring: Scoring, query: Array, key: Kept, value: Kept, seen: Array
    ) -> tuple[Array, Array, Array]:
        """Attention over the own caches, read as far as the fullest of them."""
        columns = seen.shape[-1]
        if columns <= SHORT:
            return attend_part(scoring, query, key, value, seen)
        part = -(-columns // PARTS)
        ends = [min(part * number, columns) for number in range(1, PARTS + 1)]

        def up_to(end: int) -> tuple[Array, Array, Array]:
            scales = [
                one.scale if one.scale is None else one.scale[..., :end] for one in (key, value)
            ]
            return attend_part(
                scoring,
                query,
                Kept(key.values[..., :end], scales[0]),
                Kept(value.values[..., :end, :], scales[1]),
                seen[..., :end],
            )

        last = self.filled.max() + self.size  # columns that anything is in
        branches = [functools.partial(up_to, end) for end in ends]
        return jax.lax.switch(jnp.minimum((last - 1) // part, PARTS - 1), branches)

    def _numbers(self) -> Int[Array, "B G Q"]:
        """The number of each new token in its completion."""
        return self.filled[..., None] + jnp.arange(self.size)

    def _seen_of_own(self, scoring: Scoring, columns: int, share: int) -> Array:
        """[B, 1, G, R·Q, C]: which columns each query sees."""
        age = self._numbers()[..., None] - jnp.arange(columns)
        seen = scoring.sees(age) & (age >= 0)
        return _for_heads(seen, share)[:, None]

    def _seen_of_prompt(self, scoring: Scoring, share: int) -> Array:
        """[B, 1, G·R·Q, P], or [B, 1, 1, P] where all see the same."""
        if not scoring.window:
            return self.prompt_mask[:, None, None]
        num_prompt = self.prompt_mask.shape[-1]
        distance = num_prompt + self._numbers()[..., None] - jnp.arange(num_prompt)
        seen = self.prompt_mask[:, None, None] & scoring.sees(distance)
        seen = _for_heads(seen, share)
        return seen.reshape(seen.shape[0], 1, -1, num_prompt)


def _for_heads(seen: Bool[Array, "B G Q S"], share: int) -> Bool[Array, "B G RQ S"]:
    """The same for each of R heads."""
    batch, group, size, width = seen.shape
    seen = jnp.broadcast_to(seen[:, :, None], (batch, group, share, size, width))
    return seen.reshape(batch, group, -1, width)
