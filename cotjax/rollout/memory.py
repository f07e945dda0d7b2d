"""How much memory the caches of a rollout take, from shapes alone, before anything is allocated."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cotjax.rollout.plan import NARROW, Decoder, Sampling, make_plan


@dataclasses.dataclass(frozen=True)
class CacheBytes:
    """Bytes of keys and values on all devices together.

    Attributes:
      prompts: as prefill leaves them, a cache per prompt.
      slots: copies of them where a slot does not decode its prompt in place.
      own: of the completions' own tokens.
      tail: of the narrower loop that ends a rollout with refill.
    """

    prompts: int
    slots: int
    own: int
    tail: int

    @property
    def total(self) -> int:
        """All of them, which are alive at once."""
        return self.prompts + self.slots + self.own + self.tail


def cache_bytes(
    model: Decoder, params: Any, settings: Sampling, *, prompts: int, width: int
) -> CacheBytes:
    """The caches that `generate` makes.

    Args:
      model: a decoder without parameters.
      params: its parameters, or their shapes.
      settings: how it samples.
      prompts: B.
      width: P, tokens that prompts are padded to.
    """
    plan = make_plan(prompts, model.lanes, settings)
    tokens = jax.ShapeDtypeStruct((prompts, width), jnp.int32)
    mask = jax.ShapeDtypeStruct((prompts, width), jnp.bool_)
    caches = jax.eval_shape(model.prefill, params, tokens, mask)
    rows = plan.lanes * plan.slots
    own = jax.eval_shape(
        lambda caches: model.own_caches(
            caches,
            rows=rows,
            group=plan.share,
            max_new_tokens=settings.max_new_tokens + settings.draft_tokens,
            whole=settings.draft_tokens > 0,
        ),
        caches,
    )
    by_prompt, own_bytes = _bytes(caches), _bytes(own)
    slots = 0 if plan.in_place else by_prompt * rows // prompts
    narrow = plan.slots // NARROW if plan.refill else 0
    tail = (slots + own_bytes) * narrow // plan.slots
    return CacheBytes(by_prompt, slots, own_bytes, tail)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
