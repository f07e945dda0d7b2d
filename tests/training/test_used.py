"""Tokens by use: added step by step, padding and repeated updates as a stage tells them."""

import dataclasses

import pytest

from cotjax.training.used import USES, UsedTokens, tokens_by_use

STEPS = [
    {"batch_tokens": 100, "used": 0.5, "mined_tokens": 7},
    {"batch_tokens": 100, "trained_tokens": 30, "sampled_tokens": 20.25},
    {"batch_tokens": 10},
]


def test_a_step_is_counted_without_padding_or_as_the_stage_says():
    assert [tuple(tokens_by_use(step)[use] for use in USES) for step in STEPS] == [
        (50, 0, 7),
        (30, 20.25, 0),
        (10, 0, 0),
    ]


def test_steps_add_up_and_the_total_before_the_last_is_kept():
    used = UsedTokens()
    for step in STEPS:
        before, used = used, used.plus(step)
        assert used.before == before.total
    assert (used.trained, used.sampled, used.mined) == (90, 20.25, 7)
    assert used.total == pytest.approx(117.25)
    assert used.by_use() == {"trained": 90, "sampled": 20, "mined": 7}
    assert UsedTokens(**dataclasses.asdict(used)) == used
