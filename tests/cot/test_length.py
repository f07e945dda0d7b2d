"""Length rewards: the papers' formulas by plain computation, and the laws that all of them keep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot import limit_at, relative_brevity, target_brevity
from cotjax.errors import InputError
from tests.cot.samples import FUZZ

lengths = st.lists(st.integers(0, 4000), max_size=12)
weights = st.floats(1e-5, 2.0)


@FUZZ
@given(st.integers(0, 4000), st.integers(1, 4000), weights)
def test_a_target_is_rewarded_as_in_l1(n, target, weight):
    exact = 1 + target_brevity(n, target, form="exact", weight=weight)
    assert exact == pytest.approx(max(1 - weight * abs(target - n), 0))
    clipped = weight * (target - n) + 0.5
    expected = 0 if clipped < 0 else 1 if clipped > 1 else clipped
    assert 1 + target_brevity(n, target, weight=weight) == pytest.approx(expected)


@FUZZ
@given(st.integers(0, 4000), st.integers(1, 4000), weights)
def test_a_longer_answer_never_gains_under_a_most_and_the_nearer_one_gains_under_an_exact_target(
    n, target, weight
):
    assert target_brevity(n + 1, target, weight=weight) <= target_brevity(n, target, weight=weight)
    nearer = n + (1 if n < target else -1 if n > target else 0)
    one, other = (target_brevity(x, target, form="exact", weight=weight) for x in (n, nearer))
    assert -1 <= one <= other <= 0
    if n == target:
        assert one == 0


@FUZZ
@given(lengths)
def test_a_group_is_rewarded_as_in_kimi_k15(group):
    found = relative_brevity(group)
    assert len(found) == len(group)
    if group and min(group) < max(group):
        spread = max(group) - min(group)
        assert found == pytest.approx([0.5 - (n - min(group)) / spread for n in group])
        assert max(found) == 0.5 and min(found) == -0.5
    else:
        assert found == [0.0] * len(group)
    for n, one in zip(group, found, strict=True):
        for other_n, other in zip(group, found, strict=True):
            assert (n < other_n) == (one > other) and (n == other_n) == (one == other)


KINDS = ("rounds", "linear", "cosine")


@FUZZ
@given(st.sampled_from(KINDS), st.integers(2, 4000), st.integers(1, 50), st.integers(2, 6))
def test_a_limit_falls_from_its_start_to_its_end_and_stays(kind, start, steps, rounds):
    end = start // 2
    found = [
        limit_at(step, start=start, end=end, steps=steps, schedule=kind, rounds=rounds)
        for step in range(steps + 5)
    ]
    assert found[0] == start or steps == 1
    assert sorted(found, reverse=True) == found and found[steps:] == [end] * 5
    if steps >= rounds:
        assert found[steps - 1] == end
        assert kind != "rounds" or len({*found}) == min(rounds, len({*found})) <= rounds


@FUZZ
@given(st.integers(0, 40))
def test_a_limit_is_the_curve_that_its_name_says(step):
    share = min(step / 19, 1)
    common = {"start": 1000, "end": 0, "steps": 20}
    assert limit_at(step, **common, schedule="linear") == round(1000 * (1 - share))
    cosine = 1000 * (1 + math.cos(math.pi * share)) / 2
    assert limit_at(step, **common, schedule="cosine") == round(cosine)
    turn = [1000, 750, 500, 250, 0][min(step // 4, 4)]
    assert limit_at(step, **common, schedule="rounds", rounds=5) == turn


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(InputError, match="weight = "):
        target_brevity(1, 1, weight=weight)


@pytest.mark.parametrize(("steps", "rounds"), [(0, 3), (5, 1)])
def test_a_schedule_that_is_none_is_refused(steps, rounds):
    with pytest.raises(InputError, match="steps >= 1 and rounds >= 2"):
        limit_at(0, start=2, end=1, steps=steps, rounds=rounds)
