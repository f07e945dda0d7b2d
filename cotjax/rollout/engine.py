"""The sampler: prefill each prompt once, then decode its G completions side by side.

One compiled program per shape. The loop ends as soon as every row has ended.
"""

import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cotjax.core.sampling import sample
from cotjax.interfaces import PromptBatch, Rollout


class Decoder(Protocol):
    """What the engine needs of a model; `cotjax.models.policy.Policy` has it. Hashable."""

    def prefill(
        self,
        params: Any,
        prompt: Array,
        prompt_mask: Array,
        *,
        group_size: int,
        max_new_tokens: int,
    ) -> tuple[Float[Array, "B D"], list[Any]]:
        """Hidden state that predicts the first token, and the caches."""
        ...

    def decode(
        self, params: Any, tokens: Array, prompt_mask: Array, index: Array, caches: list[Any]
    ) -> tuple[Float[Array, "B G D"], list[Any]]:
        """Hidden states after one more token, and the caches."""
        ...

    def unembed(self, params: Any) -> Float[Array, "V D"]:
        """Logits = hidden @ unembed.T."""
        ...


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
      group_size: G, completions per prompt.
      max_new_tokens: T; a row that reaches it has `ended` False.
      eos_id: ends a row; counts as part of it.
      pad_id: what stands after the end.
      temperature: 0 is greedy.
      greedy_first: completion 0 of every prompt is greedy, whatever the temperature.
      top_k: 0 keeps all.
      top_p: 1 keeps all.
      min_p: 0 keeps all.
    """

    group_size: int
    max_new_tokens: int
    eos_id: int
    pad_id: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    greedy_first: bool = False


def row_keys(key: Array, ids: Int[Array, " B"], group_size: int) -> Array:
    """[B, G] keys that depend on (key, prompt id, completion number) only, not on the batch."""
    by_prompt = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
    each = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return each(by_prompt, jnp.arange(group_size))


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def generate(
    model: Decoder, params: Any, batch: PromptBatch, key: Array, *, settings: Sampling
) -> Rollout:
    """Samples G completions for each prompt.

    Args:
      model: a decoder without parameters.
      params: its parameters.
      batch: left-padded prompts [B, P].
      key: of this step; see `row_keys`.
      settings: how to sample; static, so a new value compiles anew.

    Returns:
      `Rollout` [B, G, T].
    """
    shape = (batch.tokens.shape[0], settings.group_size, settings.max_new_tokens)
    keys = row_keys(key, batch.ids, settings.group_size)
    unembed = model.unembed(params)
    hidden, caches = model.prefill(
        params,
        batch.tokens,
        batch.mask,
        group_size=settings.group_size,
        max_new_tokens=settings.max_new_tokens,
    )
    hidden = jnp.broadcast_to(hidden[:, None], (*shape[:2], hidden.shape[-1]))

    def draw(index: Array, hidden: Array, ended: Array, rollout: Rollout) -> tuple[Array, Rollout]:
        """Chooses token number `index` of every row and writes it down."""
        logits = jnp.einsum("bgd,vd->bgv", hidden, unembed, preferred_element_type=jnp.float32)
        now = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, index)
        token = sample(
            now,
            logits,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
        )
        if settings.greedy_first:
            likeliest = sample(now[:, 0], logits[:, 0], temperature=0.0)
            token = token.at[:, 0].set(likeliest)
        tempered = logits / (settings.temperature or 1.0)
        chosen = jnp.take_along_axis(tempered, token[..., None], axis=-1)[..., 0]
        logp = chosen - jax.nn.logsumexp(tempered, axis=-1)
        token = jnp.where(ended, settings.pad_id, token)
        rollout = Rollout(
            tokens=rollout.tokens.at[:, :, index].set(token),
            mask=rollout.mask.at[:, :, index].set(~ended),
            logp=rollout.logp.at[:, :, index].set(jnp.where(ended, 0.0, logp)),
            ended=ended | (token == settings.eos_id),
        )
        return token, rollout

    def unfinished(state: tuple[Any, ...]) -> Array:
        index, _, _, rollout = state
        return (index < settings.max_new_tokens) & ~rollout.ended.all()

    def advance(state: tuple[Any, ...]) -> tuple[Any, ...]:
        index, token, caches, rollout = state
        hidden, caches = model.decode(params, token, batch.mask, index - 1, caches)
        token, rollout = draw(index, hidden, rollout.ended, rollout)
        return index + 1, token, caches, rollout

    rollout = Rollout(
        tokens=jnp.full(shape, settings.pad_id, jnp.int32),
        mask=jnp.zeros(shape, bool),
        logp=jnp.zeros(shape, jnp.float32),
        ended=jnp.zeros(shape[:2], bool),
    )
    token, rollout = draw(jnp.int32(0), hidden, rollout.ended, rollout)
    state = (jnp.int32(1), token, caches, rollout)
    *_, rollout = jax.lax.while_loop(unfinished, advance, state)
    return rollout
