"""The sampler: prefill each prompt once, then decode blocks of its completions side by side.

Prefill leaves out a prompt's last token: it is the first that each completion decodes, so that
drawing a token is compiled once, in the loop.

Work is cut into jobs, a job being R completions of one prompt, which share its cache. S slots
decode a job each. With a slot for every job, each prompt's cache lies where prefill left it
(static mode); with fewer slots, a slot that ends takes the next job inside the compiled loop
(refill), so that short completions do not wait for long ones. Near the end, when no job waits and
most slots are idle, the few that live move into a narrower loop.

All rows write the same column of a ring of T columns at the same time: a row that has n tokens
sees the n columns before that one, whenever it began.

A mesh that splits the batch over L devices has L lanes, each with jobs, slots and a queue of its
own: nothing but whether any row is still live crosses devices.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cotjax.core.sampling import sample_at
from cotjax.interfaces import End, Rollout
from cotjax.rollout.plan import NARROW, row_uniforms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """What decodes.

    Attributes:
      job: [L, S] J = idle.
      filled: [L, S] tokens that its completions have, and that their own caches hold: the last of
        the prompt and all of theirs but the last; [L, S, R] where they may have unequally many.
      live: [L, S, R] rows that go on.
      matched: [L, S, R] state of the stop strings' automaton.
      token: [L, S, R] the last one, which is not in the cache yet.
      caches: the prompts' and the rows' own; leaves [L·S, …].
    """

    job: Int[Array, "L S"]
    filled: Int[Array, "L S *R"]
    live: Bool[Array, "L S R"]
    matched: Int[Array, "L S R"]
    token: Int[Array, "L S R"]
    caches: tuple[Any, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WrittenRows:
    """Results; N = J·R completions of a lane, a prompt's side by side.

    `passes` counts how often the decoder ran for each, where that is not its number of tokens.
    """

    tokens: Int[Array, "L N T"]
    logp: Float[Array, "L N T"]
    entropy: Float[Array, "L N T"]
    length: Int[Array, "L N"]
    end: Int[Array, "L N"]
    passes: Int[Array, "L N"] | None = None


class Engine:
    """One call of `generate`, or of a piece of it, while it is traced."""

    PASSES = False  # whether it counts how often the decoder ran for a completion

    def __init__(self, model, params, batch, key, settings, plan, stop_table, layers=None):
        self.model, self.params, self.settings, self.plan = model, params, settings, plan
        self.stop_table, self.head = stop_table, model.head(params)
        lanes = (plan.lanes, plan.prompts)
        # Without the last token, and as wide as before: a token moves to the right.
        self.prefilled = jnp.roll(batch.tokens, 1, axis=1)
        self.mask = jnp.roll(batch.mask, 1, axis=1).at[:, 0].set(False).reshape(*lanes, -1)
        self.last = batch.tokens[:, -1].reshape(lanes)
        self.batch = batch
        drawn = row_uniforms(key, batch.ids, settings.group_size, settings.max_new_tokens)
        self.uniforms = drawn.reshape(plan.lanes, plan.jobs, plan.share, -1)
        self.layers = layers or model.unstacked(params, settings.weights_dtype)

    def run(self) -> Rollout:
        """Decodes all jobs."""
        plan = self.plan
        state = self.start()
        narrow = plan.slots // NARROW if plan.refill else 0
        if narrow:
            state = jax.lax.while_loop(functools.partial(self._crowded, narrow), self._step, state)
            state = (state[0], self._narrowed(state[1], narrow), *state[2:])
        return self.finish(jax.lax.while_loop(lambda s: s[1].live.any(), self._step, state))

    def start(self) -> tuple[Any, ...]:
        """Prefills the prompts: (clock, slots, queue, written), nothing drawn."""
        plan = self.plan
        mask = self.mask.reshape(self.prefilled.shape)
        self.prompts = self.model.prefill(self.params, self.prefilled, mask)
        slots, written = self._begin()
        return jnp.int32(0), slots, jnp.full(plan.lanes, plan.slots, jnp.int32), written

    def some_steps(self, state: tuple[Any, ...], most: Int[Array, ""]) -> tuple[Any, ...]:
        """At most `most` further tokens of every row, where each prompt has its slot."""
        until = state[0] + most
        return jax.lax.while_loop(lambda s: s[1].live.any() & (s[0] < until), self._step, state)

    def finish(self, state: tuple[Any, ...]) -> Rollout:
        """What has been written."""
        *_, written = state
        plan, settings = self.plan, self.settings
        shape = (plan.lanes * plan.prompts, settings.group_size)
        length = written.length.reshape(shape)
        mask = jnp.arange(settings.max_new_tokens) < length[..., None]
        return Rollout(
            tokens=written.tokens.reshape(mask.shape),
            mask=mask,
            logp=written.logp.reshape(mask.shape),
            entropy=written.entropy.reshape(mask.shape),
            end=written.end.reshape(shape),
            passes=None if written.passes is None else written.passes.reshape(shape),
        )

    def _begin(self) -> tuple[Slots, WrittenRows]:
        """The first jobs in their slots, nothing drawn."""
        plan, length = self.plan, self.settings.max_new_tokens
        rows = (plan.lanes, plan.slots, plan.share)
        job = jnp.broadcast_to(jnp.arange(plan.slots, dtype=jnp.int32), rows[:2])
        prompts = self.prompts
        if not plan.in_place:
            take = functools.partial(self._take_prompts, job=job)
            prompts = jax.tree.map(lambda leaf: take(leaf).reshape(-1, *leaf.shape[1:]), prompts)
        slots = Slots(
            job=job,
            filled=self._nothing(job),
            live=jnp.ones(rows, bool),
            matched=jnp.zeros(rows, jnp.int32),
            token=self._last_tokens(job),
            caches=(prompts, self._own_caches(prompts)),
        )
        count = (plan.lanes, plan.jobs * plan.share)
        return slots, WrittenRows(
            tokens=jnp.full((*count, length), self.settings.pad_id, jnp.int32),
            logp=jnp.zeros((*count, length), jnp.float32),
            entropy=jnp.zeros((*count, length), jnp.float32),
            length=jnp.zeros(count, jnp.int32),
            end=jnp.full(count, End.LENGTH, jnp.int32),
            passes=jnp.zeros(count, jnp.int32) if self.PASSES else None,
        )

    def _own_caches(self, prompts: Any, *, more: int = 0, **how: bool) -> Any:
        """Empty caches of the completions in all slots, of `more` columns than they have tokens."""
        plan = self.plan
        return self.model.own_caches(
            prompts,
            rows=plan.lanes * plan.slots,
            group=plan.share,
            max_new_tokens=self.settings.max_new_tokens + more,
            **how,
        )

    def _nothing(self, job: Int[Array, "L S"]) -> Array:
        """How many tokens the completions of new jobs have."""
        return jnp.zeros_like(job)

    def _crowded(self, narrow: int, state: tuple[Any, ...]) -> Array:
        """Whether jobs wait, or more slots live than the narrower loop has."""
        _, slots, queue, _ = state
        alive = slots.live.any(axis=-1).sum(axis=-1)
        return ((queue < self.plan.jobs) | (alive > narrow)).any()

    def _narrowed(self, slots: Slots, narrow: int) -> Slots:
        """The slots that live, in `narrow` places."""
        order = jnp.argsort(~slots.live.any(axis=-1), axis=-1, stable=True)[:, :narrow]

        def pick(leaf: Array) -> Array:
            shape = leaf.shape
            leaf = (
                leaf if shape[:2] == slots.job.shape else leaf.reshape(*slots.job.shape, *shape[1:])
            )
            index = order.reshape(*order.shape, *(1,) * (leaf.ndim - 2))
            leaf = jnp.take_along_axis(leaf, index, axis=1)
            return leaf if shape[:2] == slots.job.shape else leaf.reshape(-1, *shape[1:])

        return jax.tree.map(pick, slots)

    def _step(self, state: tuple[Any, ...]) -> tuple[Any, ...]:
        """One more token for every row."""
        clock, slots, queue, written = state
        flat = (-1, self.plan.share)
        hidden, own = self.model.decode(
            self.params,
            self.layers,
            slots.token.reshape(flat),
            self._of_prompt(self.mask, slots.job).reshape(flat[0], self.mask.shape[-1]),
            slots.filled.reshape(-1) if self.plan.refill else clock,
            clock % self.settings.max_new_tokens,
            slots.caches,
        )
        hidden = hidden.reshape(*slots.token.shape, -1)
        slots = dataclasses.replace(slots, caches=(slots.caches[0], own))
        return clock + 1, *self._advance(hidden, slots, queue, written)

    def _advance(
        self, hidden: Array, slots: Slots, queue: Array, written: WrittenRows
    ) -> tuple[Slots, Array, WrittenRows]:
        """Draws a token for every row, stores it, and gives ended slots their next job."""
        drawn = self._draw(hidden, slots.job, self._uniform(slots))
        written, matched, ends = self._record(slots, written, drawn, slots.live)
        slots = dataclasses.replace(
            slots,
            filled=slots.filled + 1,
            live=slots.live & ~ends,
            matched=matched,
            token=drawn[0],
        )
        if not self.plan.refill:
            return slots, queue, written
        return *self._refill(slots, queue), written

    def _record(
        self,
        slots: Slots,
        written: WrittenRows,
        drawn: tuple[Array, ...],
        takes: Bool[Array, "L S R"],
    ) -> tuple[WrittenRows, Array, Array]:
        """Stores the next token of the rows that take one: results, automaton, and which rows end.

        Args:
          slots: before it.
          written: so far.
          drawn: token, log-probability and entropy, [L, S, R] each.
          takes: which rows.
        """
        plan, settings = self.plan, self.settings
        token, logp, entropy = drawn
        finite = jnp.isfinite(logp) & jnp.isfinite(entropy)
        end = jnp.where(finite, End.LENGTH, End.NONFINITE)
        matched = slots.matched
        if self.stop_table is not None:
            matched = self.stop_table[matched, token].astype(jnp.int32)
            end = jnp.where(finite & (matched == len(self.stop_table) - 1), End.STOP, end)
        for stop_id in (settings.eos_id, *settings.stop_ids):
            end = jnp.where(finite & (token == stop_id), End.EOS, end)

        filled = slots.filled.reshape(*slots.job.shape, -1)
        row = jnp.where(takes, self._rows(slots.job), plan.jobs * plan.share)  # beyond: dropped
        column = jnp.where(finite, filled, settings.max_new_tokens)
        written = dataclasses.replace(
            written,
            tokens=put(written.tokens, token, row, column),
            logp=put(written.logp, logp, row, column),
            entropy=put(written.entropy, entropy, row, column),
            length=put(written.length, filled + finite, row),
            end=put(written.end, end, row),
        )
        return written, matched, (end != End.LENGTH) | (filled + 1 >= settings.max_new_tokens)

    def _rows(self, job: Int[Array, "L S"]) -> Int[Array, "L S R"]:
        """The numbers of a job's completions in their lane."""
        return job[..., None] * self.plan.share + jnp.arange(self.plan.share)

    def _uniform(self, slots: Slots) -> Float[Array, "L S R"]:
        """What the next token of every row is drawn with."""
        at = jnp.minimum(slots.job, self.plan.jobs - 1)
        return jax.vmap(lambda rows, job, token: rows[job, :, token])(
            self.uniforms, at, jnp.minimum(slots.filled, self.settings.max_new_tokens - 1)
        )

    def _draw(
        self, hidden: Array, job: Int[Array, "L S"], uniform: Float[Array, "L S R *Q"]
    ) -> tuple[Array, Array, Array]:
        """A token of every row, its log-probability, the entropy; [L, S, R, *Q] each.

        The devices of a lane may draw for different rows: what goes in and what comes out is kept
        whole, or the split would spread to what decodes.
        """
        settings, plan, shape = self.settings, self.plan, uniform.shape
        logits = self.head(hidden.reshape(shape[0], -1, hidden.shape[-1]))
        token = sample_at(
            self.model.keep(uniform.reshape(logits.shape[:2])),
            logits,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
        )
        if settings.greedy_first:
            first = logits.reshape(*shape, -1)[:, :, 0]
            likeliest = sample_at(uniform[:, :, 0], first, temperature=0.0)
            token = token.reshape(shape)
            begins = (job % plan.parts == 0).reshape(*job.shape, *(1,) * (likeliest.ndim - 2))
            chosen = jnp.where(begins, likeliest, token[:, :, 0])
            token = token.at[:, :, 0].set(chosen).reshape(logits.shape[:2])
        tempered = logits / (settings.temperature or 1.0)
        peak = tempered.max(axis=-1, keepdims=True)
        weights = jnp.exp(tempered - peak)
        total = weights.sum(axis=-1)
        norm = peak[..., 0] + jnp.log(total)
        chosen = jnp.take_along_axis(tempered, token[..., None], axis=-1)[..., 0]
        # As a product of matrices: as a sum of products a CPU takes five times as long.
        mean = jnp.einsum("...v,...v->...", weights, tempered) / total
        drawn = token, chosen - norm, norm - mean
        token, logp, entropy = (self.model.keep(each).reshape(shape) for each in drawn)
        return token, logp, entropy

    def _refill(self, slots: Slots, queue: Array) -> tuple[Slots, Array]:
        """Slots whose rows have all ended take the next jobs of their lane."""
        jobs = self.plan.jobs
        free = ~slots.live.any(axis=-1) & (slots.job < jobs)
        job = queue[:, None] + jnp.cumsum(free, axis=-1, dtype=jnp.int32) - 1
        job = jnp.where(free, jnp.minimum(job, jobs), slots.job)
        queue = jnp.minimum(queue + free.sum(axis=-1, dtype=jnp.int32), jobs)
        begins = free & (job < jobs)
        prompts, own = slots.caches
        slots = dataclasses.replace(
            slots,
            job=job,
            filled=jnp.where(
                free.reshape(*free.shape, *(1,) * (slots.filled.ndim - 2)), 0, slots.filled
            ),
            live=slots.live | begins[..., None],
            matched=jnp.where(free[..., None], 0, slots.matched),
            token=jnp.where(free[..., None], self._last_tokens(job), slots.token),
            caches=(self._copy_prompts(prompts, job, begins), own),
        )
        return slots, queue

    def _copy_prompts(self, caches: Any, job: Array, begins: Array) -> Any:
        """Puts the prompts' caches into slots that begin, one slot of each lane at a time."""

        def copy(_: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
            todo, caches = state
            slot = jnp.where(todo.any(axis=-1), todo.argmax(axis=-1), todo.shape[1])
            now = jnp.take_along_axis(job, jnp.minimum(slot, todo.shape[1] - 1)[:, None], axis=1)

            def place(cache: Array, source: Array) -> Array:
                new = self._take_prompts(source, now)[:, 0]
                return put(cache.reshape(*todo.shape, *cache.shape[1:]), new, slot).reshape(
                    cache.shape
                )

            return put(todo, False, slot), jax.tree.map(place, caches, self.prompts)

        most = begins.sum(axis=-1).max()
        return jax.lax.fori_loop(0, most, copy, (begins, caches))[1]

    def _last_tokens(self, job: Int[Array, "L S"]) -> Int[Array, "L S R"]:
        """The last token of each job's prompt, for all its rows."""
        last = self._of_prompt(self.last, job)[..., None]
        return jnp.broadcast_to(last, (*job.shape, self.plan.share))

    def _take_prompts(self, leaf: Array, job: Int[Array, "L S"]) -> Array:
        """[L, S, …] of leaves [L·prompts, …]."""
        return self._of_prompt(leaf.reshape(*self.mask.shape[:2], *leaf.shape[1:]), job)

    def _of_prompt(self, values: Array, job: Int[Array, "L S"]) -> Array:
        """[L, S, …] of [L, prompts, …]: each job's prompt's; of idle slots, the last prompt's."""
        if self.plan.in_place:
            return values
        prompt = jnp.minimum(job // self.plan.parts, self.plan.prompts - 1)
        index = prompt.reshape(*prompt.shape, *(1,) * (values.ndim - 2))
        return jnp.take_along_axis(values, index, axis=1)


def put(array: Any, values: Any, *index: Array, add: bool = False) -> Array:
    """array[lane, *index[lane]] = values[lane] for every lane; indices out of bounds are dropped.

    With `add`, += in place of =.

    Mapped over lanes, not indexed by them: that tells a compiler that no lane reaches into another.
    """

    def one(array: Array, values: Array, *index: Array) -> Array:
        at = array.at[index]
        return at.add(values, mode="drop") if add else at.set(values, mode="drop")

    if not isinstance(values, jax.Array):
        values = jnp.full(index[0].shape, values)
    return jax.vmap(one)(array, values, *index)
