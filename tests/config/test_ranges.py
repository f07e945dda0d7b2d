"""The values that settings may take."""

import math
import typing

import pytest

from cotjax.config import ranges
from cotjax.config.ranges import Named, Range

LIMITS = {
    "Natural": ([0, 1, 99], [-1]),
    "AtMost1": ([0, 1], [-1, 2]),
    "Count": ([1, 99], [0, -1]),
    "NotNegative": ([0.0, 0.5, 1e9], [-0.1, math.inf]),
    "Positive": ([1e-9, 3.0], [0.0, -1.0, math.inf]),
    "Share": ([0.0, 0.5, 1.0], [-0.1, 1.1]),
    "ShareBelow1": ([0.0, 0.99], [1.0, -0.1]),
    "ShareInside": ([0.01, 0.99], [0.0, 1.0]),
    "ShareAbove0": ([0.01, 1.0], [0.0, 1.1]),
    "GroupSize": ([2, 64], [1, 0]),
    "RowLength": ([2, 512], [1]),
    "Rounds": ([2, 9], [1]),
    "AxisSize": ([-1, 1, 8], [0, -2]),
}


def limit_of(name):
    (limit,) = (x for x in typing.get_args(getattr(ranges, name)) if isinstance(x, Range))
    return limit


@pytest.mark.parametrize("name", LIMITS)
def test_a_range_holds_what_it_says_and_nan_is_in_none(name):
    limit, (inside, outside) = limit_of(name), LIMITS[name]
    assert all(limit.holds(value) for value in inside)
    assert not any(limit.holds(value) for value in [*outside, math.nan])
    assert "key" in limit.form.format("key") and limit.why


def test_every_range_is_tested_here():
    found = {
        name
        for name, value in vars(ranges).items()
        if any(isinstance(one, Range) for one in typing.get_args(value))
    }
    assert found == set(LIMITS)


@pytest.mark.parametrize(
    "name",
    ["StageName", "SourceName", "RewardName", "VerifierName", "TermName", "DifficultyName"],
)
def test_a_key_that_takes_a_user_s_object_knows_its_names_and_says_what_it_takes(name):
    (named,) = (x for x in typing.get_args(getattr(ranges, name)) if isinstance(x, Named))
    assert named.known and named.takes


def test_signals_are_those_of_the_type():
    assert typing.get_args(ranges.Signal) == ranges.SIGNALS
