"""A rollout before it runs: how work is divided, and what each token is drawn with."""

import dataclasses

import jax
import numpy as np
import pytest

from cotjax.rollout.plan import Sampling, make_plan, row_uniforms

SETTINGS = Sampling(8, 16, eos_id=0, pad_id=1)


def plan(prompts=4, lanes=1, **changes):
    return make_plan(prompts, lanes, dataclasses.replace(SETTINGS, **changes))


def test_without_slots_every_prompt_decodes_all_its_completions_in_place():
    made = plan()
    assert (made.prompts, made.share, made.parts, made.slots) == (4, 8, 1, 4)
    assert made.in_place and not made.refill and made.jobs == 4


@pytest.mark.parametrize(
    ("rows", "share", "parts", "slots"),
    [(16, 0, 1, 2), (16, 1, 8, 16), (16, 4, 2, 4), (3, 4, 2, 1), (999, 2, 4, 16)],
)
def test_rows_and_shares_make_jobs_and_slots(rows, share, parts, slots):
    made = plan(rows=rows, share=share)
    assert (made.parts, made.slots, made.jobs) == (parts, slots, 4 * parts)
    assert made.refill == (slots < 4 * parts)


def test_the_filters_of_a_sampler_are_named_as_a_config_has_them():
    assert SETTINGS.filters == ""
    filtered = dataclasses.replace(SETTINGS, top_k=1, top_p=0.5, temperature=0.3)
    assert filtered.filters == "rollout.top_k = 1, rollout.top_p = 0.5"


def test_lanes_divide_prompts_and_rows():
    made = plan(prompts=8, lanes=4, rows=32, share=2)
    assert (made.lanes, made.prompts, made.slots, made.jobs) == (4, 2, 4, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"share": 3}, "share = 3 does not divide group_size = 8"), ({"lanes": 3}, "3 lanes")],
)
def test_what_does_not_divide_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        plan(**changes)


def test_a_token_s_number_is_its_own_whatever_else_is_drawn():
    key, ids = jax.random.key(3), np.array([5, 9, 700], np.int32)
    whole = row_uniforms(key, ids, 4, 6)
    assert whole.shape == (3, 4, 6) and 0 <= whole.min() and whole.max() < 1
    assert len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(row_uniforms(key, ids[1:], 2, 3), whole[1:, :2, :3])
    folded = key
    for number in (700, 2, 5):
        folded = jax.random.fold_in(folded, number)
    assert whole[2, 2, 5] == jax.random.uniform(folded)
    assert (row_uniforms(jax.random.key(4), ids, 4, 6) != whole).any()
