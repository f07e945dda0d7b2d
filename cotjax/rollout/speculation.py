"""Speculative decoding: several tokens from one pass of the decoder, drawn as without it.

What comes next often stands in the prompt or in the text already: of a masked rationale that is
completed, of a solution that is rewritten. So the K tokens behind the newest place that reads as
the end of the text does are its draft. One pass decodes the last token and the draft, and draws
behind each place with its own number u, a matter of the row and the token (`row_uniforms`):

    text      … 3 + 4 = 7 . … 3 + 4
    draft     =       7       .
    drawn     =       7       ,      with u[n], u[n+1], u[n+2]; a fourth behind the draft's end
    kept      =       7       ,

A drawn token is kept as long as the draft was right about those before it. None depends on a
draft, so a row's tokens are those that it has without drafts, greedy or not, but for logits that
differ in their last bits because more tokens were multiplied at once.

Source: Leviathan et al. 2023, arXiv:2211.17192, whose rule of acceptance this is where a draft is
certain of its tokens; prompt lookup, Saxena 2023, for such drafts.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cotjax.rollout.engine import Engine, Slots, WrittenRows, put


def propose(
    text: Int[Array, "*N S"], known: Bool[Array, "*N S"], last: Int[Array, "*N"], count: int
) -> Int[Array, "*N K"]:
    """The tokens behind the newest earlier place with the same last two tokens, else last one.

    Args:
      text: tokens.
      known: which of them there are; behind `last` none.
      last: index of the newest token.
      count: K.

    Returns:
      a draft; where there is no such place, or it is near the end, tokens of no meaning.
    """
    index = jnp.arange(text.shape[-1])
    newest = jnp.take_along_axis(text, last[..., None], axis=-1)
    second = jnp.take_along_axis(text, jnp.maximum(last - 1, 0)[..., None], axis=-1)
    earlier = known & (index < last[..., None])
    before = jnp.roll(text, 1, axis=-1) == second
    before &= jnp.roll(known, 1, axis=-1) & (index > 0) & (last[..., None] > 0)
    one = earlier & (text == newest)
    found = jnp.where(one, index + 1 + text.shape[-1] * (one & before), 0).max(axis=-1)
    place = jnp.where(found > 0, (found - 1) % text.shape[-1], last)
    behind = jnp.minimum(place[..., None] + 1 + jnp.arange(count), text.shape[-1] - 1)
    return jnp.take_along_axis(text, behind, axis=-1)


class SpeculativeEngine(Engine):
    """An `Engine` whose rows take up to 1 + `settings.draft_tokens` tokens of a pass.

    Rows of a slot so have unequally many tokens, and each writes its own columns of its cache.
    """

    PASSES = True

    def _own_caches(self, prompts: Any, *, more: int = 0, **how: bool) -> Any:
        return super()._own_caches(
            prompts, more=more + self.settings.draft_tokens, whole=True, **how
        )

    def _nothing(self, job: Int[Array, "L S"]) -> Array:
        return jnp.zeros((*job.shape, self.plan.share), jnp.int32)

    def _step(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        """A draft for every row, and as many tokens as it was right about, and one more."""
        clock, slots, queue, written = state
        tokens = jnp.concatenate([slots.token[..., None], self._drafts(slots, written)], axis=-1)
        hidden, own = self.model.decode_ahead(
            self.params,
            self.layers,
            tokens.reshape(-1, *tokens.shape[2:]),
            self._of_prompt(self.mask, slots.job).reshape(-1, self.mask.shape[-1]),
            slots.filled.reshape(-1, self.plan.share),
            slots.caches,
        )
        slots = dataclasses.replace(slots, caches=(slots.caches[0], own))
        row = jnp.where(slots.live, self._rows(slots.job), self.plan.jobs * self.plan.share)
        passes = put(written.passes, 1, row, add=True)
        written = dataclasses.replace(written, passes=passes)
        slots, written = self._take(tokens, hidden, slots, written)
        if self.plan.refill:
            slots, queue = self._refill(slots, queue)
        return clock + 1, slots, queue, written

    def _take(
        self, tokens: Int[Array, "L S R Q"], hidden: Array, slots: Slots, written: WrittenRows
    ) -> tuple[Slots, WrittenRows]:
        """Draws behind every token that was decoded, and keeps what the drafts were right about."""
        number = slots.filled[..., None] + jnp.arange(tokens.shape[-1])
        drawn = self._draw(hidden, slots.job, self._uniforms_of(slots.job, number))
        takes = slots.live
        for place in range(tokens.shape[-1]):
            here = tuple(each[..., place] for each in drawn)
            written, matched, ends = self._record(slots, written, here, takes)
            slots = dataclasses.replace(
                slots,
                filled=jnp.where(takes, slots.filled + 1, slots.filled),
                live=slots.live & ~(takes & ends),
                matched=jnp.where(takes, matched, slots.matched),
                token=jnp.where(takes, here[0], slots.token),
            )
            if place + 1 < tokens.shape[-1]:
                takes = takes & slots.live & (here[0] == tokens[..., place + 1])
        return slots, written

    def _uniforms_of(
        self, job: Int[Array, "L S"], number: Int[Array, "L S R Q"]
    ) -> Float[Array, "L S R Q"]:
        """What tokens number n of every row are drawn with."""
        at = jnp.minimum(job, self.plan.jobs - 1)[..., None, None]
        rows = jnp.take_along_axis(self.uniforms, at, axis=1)
        last = self.settings.max_new_tokens - 1
        return jnp.take_along_axis(rows, jnp.minimum(number, last), axis=-1)

    def _drafts(self, slots: Slots, written: WrittenRows) -> Int[Array, "L S R K"]:
        """What stands behind the newest place of each row's text that reads as its end does."""
        plan = self.plan
        lanes, width = (plan.lanes, plan.prompts), self.mask.shape[-1]
        prompt = self._of_prompt(self.batch.tokens.reshape(*lanes, -1), slots.job)
        known = self._of_prompt(self.batch.mask.reshape(*lanes, -1), slots.job)
        own = written.tokens.reshape(plan.lanes, plan.jobs, plan.share, -1)
        at = jnp.minimum(slots.job, plan.jobs - 1)[..., None, None]
        own = jnp.take_along_axis(own, at, axis=1)
        rows = (*slots.token.shape, width)
        text = jnp.concatenate([jnp.broadcast_to(prompt[:, :, None], rows), own], axis=-1)
        there = jnp.arange(own.shape[-1]) < slots.filled[..., None]
        known = jnp.concatenate([jnp.broadcast_to(known[:, :, None], rows), there], axis=-1)
        return propose(text, known, width - 1 + slots.filled, self.settings.draft_tokens)
