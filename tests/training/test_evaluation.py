"""The numbers of an evaluation, computed by hand."""

import pytest

from cotjax.interfaces import End
from cotjax.training.evaluation import JudgedCompletion, summarize
from cotjax.training.metrics import wilson_interval


def make(correct, tokens, end=End.EOS, well_formed=True):
    parts = {"correct": float(correct), "well_formed": float(well_formed)}
    return JudgedCompletion("text", tokens, end, 0.0, parts)


GREEDY = [make(1, 10), make(0, 30, end=End.LENGTH, well_formed=False), make(1, 20), make(0, 4)]


def test_greedy_numbers():
    low, high = wilson_interval(2, 4)
    assert summarize(GREEDY, []) == {
        "accuracy": 0.5,
        "accuracy_low": low,
        "accuracy_high": high,
        "tokens": 16.0,
        "median_tokens": 15.0,
        "correct_tokens": 15.0,
        "truncated": 0.25,
        "well_formed": 0.75,
        "problems": 4,
    }


def test_sampled_numbers():
    sampled = [[make(1, 1), make(0, 2)], [make(0, 3), make(0, 4)], [make(1, 5), make(1, 9)]]
    numbers = summarize(GREEDY, sampled)
    assert numbers["sampled_accuracy"] == 0.5
    assert numbers["sampled_tokens"] == 4.0
    assert numbers["pass_at_k"] == pytest.approx(2 / 3)
    assert numbers["samples"] == 2


def test_one_sample_each_has_no_pass_at_k():
    assert "pass_at_k" not in summarize(GREEDY, [[one] for one in GREEDY])


def test_the_length_of_correct_ones_needs_a_correct_one():
    assert "correct_tokens" not in summarize([make(0, 10)], [])


def test_every_number_is_plain_json():
    numbers = summarize(GREEDY, [[one] * 2 for one in GREEDY])
    assert {type(value) for value in numbers.values()} == {int, float}
