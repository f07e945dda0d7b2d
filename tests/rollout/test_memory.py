"""The size of the caches is known before they are there, and is what they then have."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from cotjax.rollout.memory import cache_bytes
from tests.rollout.test_engine import BATCH, GROUP, NEW, PARAMS, POLICY, PROMPT, PROMPTS, SETTINGS


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("dtype", "ratio"), [(None, 1), ("bfloat16", 1 / 2), ("int8", 3 / 8)])
def test_sizes_are_those_of_the_arrays(dtype, ratio):
    policy = dataclasses.replace(POLICY, cache_dtype=dtype and jnp.dtype(dtype))
    size = cache_bytes(policy, PARAMS, SETTINGS, prompts=BATCH, width=PROMPT)
    prompts = policy.prefill(PARAMS, PROMPTS.tokens, PROMPTS.mask)
    own = policy.own_caches(prompts, rows=BATCH, group=GROUP, max_new_tokens=NEW)
    assert (size.prompts, size.slots, size.own, size.tail) == (
        *(bytes_of(prompts), 0, bytes_of(own), 0),
    )
    # One layer, 2 heads of 8 numbers and, for int8, a scale: (8 + 4) / 32 of float32.
    assert size.total == 2 * 2 * 8 * 4 * (BATCH * PROMPT + BATCH * GROUP * NEW) * ratio


def test_refill_copies_prompts_into_slots_and_ends_in_a_narrower_loop():
    settings = dataclasses.replace(SETTINGS, rows=16, share=2)  # 8 slots for 16 jobs
    size = cache_bytes(POLICY, PARAMS, settings, prompts=BATCH, width=PROMPT)
    token = 2 * 2 * 8 * 4
    assert size.slots == 8 * PROMPT * token and size.own == 16 * NEW * token
    assert size.tail == (size.slots + size.own) // 4


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda: PARAMS)
    huge = dataclasses.replace(SETTINGS, max_new_tokens=2**20)
    size = cache_bytes(POLICY, shapes, huge, prompts=2**10, width=2**10)
    assert size.total > 2**38
