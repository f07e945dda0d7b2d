"""The numbers of an evaluation, computed by hand."""

import itertools
import random

import pytest

from cotjax.interfaces import End
from cotjax.training.evaluation import JudgedCompletion, majority, pass_at_k, summarize
from cotjax.training.metrics import wilson_interval


def make(correct, tokens, end=End.EOS, well_formed=True, answer=None):
    parts = {"correct": float(correct), "well_formed": float(well_formed)}
    return JudgedCompletion("text", tokens, end, 0.0, parts, answer=answer)


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


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_choices_of_k_with_a_right_one(samples):
    for correct in range(samples + 1):
        marks = [place < correct for place in range(samples)]
        for k in range(1, samples + 1):
            chosen = [any(one) for one in itertools.combinations(marks, k)]
            expected = sum(chosen) / len(chosen)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected)


def test_pass_at_k_is_unbiased():
    draw, share, n, k = random.Random(0), 0.3, 6, 4
    counts = [sum(draw.random() < share for _ in range(n)) for _ in range(20_000)]
    mean = sum(pass_at_k(n, count, k) for count in counts) / len(counts)
    assert mean == pytest.approx(1 - (1 - share) ** k, abs=0.01)


@pytest.mark.parametrize(("correct", "k"), [(1, 0), (1, 5), (5, 1), (-1, 1)])
def test_pass_at_k_of_what_cannot_be_is_refused(correct, k):
    with pytest.raises(ValueError, match="of n = 4 samples"):
        pass_at_k(4, correct, k)


def test_powers_of_two_are_reported_up_to_the_samples():
    sampled = [[make(place < correct, 1) for place in range(6)] for correct in (0, 1, 6)]
    numbers = summarize(GREEDY[:3], sampled)
    assert [name for name in numbers if name.startswith("pass_at")] == [
        *("pass_at_k", "pass_at_1", "pass_at_2", "pass_at_4")
    ]
    assert numbers["pass_at_1"] == pytest.approx(numbers["sampled_accuracy"])
    assert numbers["pass_at_4"] == pytest.approx((0 + 4 / 6 + 1) / 3)


def test_the_majority_votes_and_answers_that_are_equal_vote_together():
    same = lambda one, other: float(one) == float(other)  # noqa: E731
    votes = [make(0, 1, answer="3"), make(1, 1, answer="7"), make(0, 1), make(1, 1, answer="7.0")]
    assert majority(votes, same) is votes[1]
    assert majority(votes, str.__eq__) is votes[0], "of a tie, the earliest"
    assert majority([make(1, 1)], same) is None
    numbers = summarize(GREEDY[:2], [votes, [make(0, 1)] * 4], same)
    assert numbers["maj_at_4"] == 0.5
    assert summarize(GREEDY[:1], [votes])["maj_at_4"] == 0
