"""Completions of prompts: `generate`, one compiled program from prefill to the last token."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Int

from cotjax.interfaces import PromptBatch, Rollout
from cotjax.rollout.engine import Engine
from cotjax.rollout.plan import Decoder, Sampling, make_plan
from cotjax.rollout.speculation import SpeculativeEngine


@functools.partial(jax.jit, static_argnames=("model", "settings"))
def generate(
    model: Decoder,
    params: Any,
    batch: PromptBatch,
    key: Array,
    *,
    settings: Sampling,
    stop_table: Int[Array, "A V"] | None = None,
) -> Rollout:
    """Samples G completions for each prompt.

    Args:
      model: a decoder without parameters.
      params: its parameters.
      batch: left-padded prompts [B, P].
      key: of this step; see `row_uniforms`.
      settings: how to sample; static, so a new value compiles anew.
      stop_table: automaton of stop strings, see `rollout.stops`; None: there are none.

    Returns:
      `Rollout` [B, G, T].

    Raises:
      ValueError: see `make_plan`.
    """
    plan = make_plan(len(batch.tokens), model.lanes, settings)
    kind = SpeculativeEngine if settings.draft_tokens else Engine
    return kind(model, params, batch, key, settings, plan, stop_table).run()
