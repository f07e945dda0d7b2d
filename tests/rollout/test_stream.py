"""A rollout in pieces: it grows to the whole, or to its beginning where it is limited."""

import dataclasses

import jax
import numpy as np
import pytest

from cotjax.rollout.generate import generate
from cotjax.rollout.stream import stream
from tests.rollout.test_engine import (
    KEY,
    PARAMS,
    POLICY,
    PROMPTS,
    SETTINGS,
    assert_same_completions,
)


def test_a_stream_grows_and_ends_as_the_whole():
    pieces = jax.device_get(list(stream(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS, chunk=2)))
    whole = jax.device_get(generate(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS))
    assert_same_completions(pieces[-1], whole)
    for n, piece in zip((1, 3, 5), pieces, strict=False):
        np.testing.assert_array_equal(piece.mask.sum(-1), np.minimum(whole.mask.sum(-1), n))


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_a_limited_stream_is_the_beginning_of_the_whole(limit):
    same = {"settings": SETTINGS, "chunk": 2, "limit": limit}
    *_, last = jax.device_get(list(stream(POLICY, PARAMS, PROMPTS, KEY, **same)))
    whole = jax.device_get(generate(POLICY, PARAMS, PROMPTS, KEY, settings=SETTINGS))
    mask = whole.mask & (np.arange(SETTINGS.max_new_tokens) < limit)
    np.testing.assert_array_equal(last.mask, mask)
    np.testing.assert_array_equal(last.tokens[mask], whole.tokens[mask])


def test_a_stream_needs_a_slot_for_each_prompt():
    settings = dataclasses.replace(SETTINGS, rows=4)
    with pytest.raises(ValueError, match="every prompt needs a slot"):
        next(stream(POLICY, PARAMS, PROMPTS, KEY, settings=settings))
