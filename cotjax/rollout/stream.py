"""`generate` in pieces, to print completions as they are written."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array, Int

from cotjax.interfaces import PromptBatch, Rollout
from cotjax.rollout.engine import Engine
from cotjax.rollout.plan import Decoder, Sampling, make_plan


def stream(
    model: Decoder,
    params: Any,
    batch: PromptBatch,
    key: Array,
    *,
    settings: Sampling,
    stop_table: Int[Array, "A V"] | None = None,
    chunk: int = 1,
    limit: int | None = None,
) -> Iterator[Rollout]:
    """`generate` in pieces: the completions after one token, then after every `chunk` more.

    The last rollout is that of `generate` with the same arguments; with a `limit`, of as many
    tokens at most, for which nothing is compiled anew. It makes no drafts, which change nothing.

    Raises:
      ValueError: see `make_plan`; also settings in which a prompt has no slot of its own.
    """
    if not make_plan(len(batch.tokens), model.lanes, settings).in_place:
        raise ValueError("stream: every prompt needs a slot; leave rows and share at 0.")
    same = {"settings": settings, "stop_table": stop_table}
    left = settings.max_new_tokens if limit is None else limit
    (state, layers), live, most = _no_piece(model, params, batch, key, **same), True, 1
    while live and left > 0:
        state, rollout, live = _next_piece(model, params, batch, key, state, layers, most, **same)
        left, most = left - most, min(chunk, left - most)
        yield rollout


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def _no_piece(model, params, batch, key, *, settings, stop_table):
    plan = make_plan(len(batch.tokens), model.lanes, settings)
    engine = Engine(model, params, batch, key, settings, plan, stop_table)
    return engine.start(), engine.layers  # cut once for all pieces


@functools.partial(jax.jit, static_argnames=("model", "settings"), donate_argnames="state")
def _next_piece(model, params, batch, key, state, layers, most, *, settings, stop_table):
    plan = make_plan(len(batch.tokens), model.lanes, settings)
    engine = Engine(model, params, batch, key, settings, plan, stop_table, layers)
    state = engine.some_steps(state, most)
    return state, engine.finish(state), state[1].live.any()
