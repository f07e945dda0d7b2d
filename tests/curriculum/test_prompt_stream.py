"""A curriculum's levels: who is in them, when the next opens, and that a resumed one agrees."""

import numpy as np
import pytest

from cotjax.curriculum.levels import BucketStream, make_levels
from cotjax.interfaces import Record

RECORDS = [Record(f"n/{i}", "?", "1", ("a",) * (i % 5), i % 5) for i in range(20)]


class Numbers:
    """A stream 0, 1, 2, … of a level, with a position."""

    def __init__(self, level):
        self.level, self.place = level, 0

    def __next__(self):
        self.place += 1
        return self.level, self.place - 1

    def close(self):
        self.place = None

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def make(threshold=0.7, window=2, patience=0):
    levels = [lambda level=level: Numbers(level) for level in range(3)]
    return BucketStream(levels, threshold=threshold, window=window, patience=patience)


def levels(**more):
    settings = {"num_levels": 3, "pool": 20, "cumulative": True, "seed": 0} | more
    return make_levels(RECORDS, lambda record: record.difficulty, **settings)


def difficulties(source):
    return [source[i].difficulty for i in range(len(source))]


def test_levels_hold_the_easier_ones_too_or_their_own_alone():
    easy, middle, whole = levels()
    assert [len(one) for one in (easy, middle, whole)] == [7, 14, 20]
    assert max(difficulties(easy)) <= min(difficulties(levels(cumulative=False)[1]))
    assert sum(len(one) for one in levels(cumulative=False)) == 20
    assert len(levels(num_levels=1)[0]) == 20


def test_a_long_source_is_cut_at_the_pool_and_an_empty_bucket_is_refused():
    assert len(levels(pool=9)[-1]) == 9
    with pytest.raises(ValueError, match="9 examples allow 1 to 9 buckets"):
        levels(pool=9, num_levels=10)


def test_success_opens_the_next_level_and_the_last_stays():
    stream = make()
    assert [stream.report(x) for x in (0.9, 0.4, 0.9, 0.5)] == [False, False, False, True]
    assert stream.level == 1 and next(stream) == (1, 0)
    assert not stream.report(1.0) and stream.report(1.0) and stream.level == 2
    assert not any(stream.report(1.0) for _ in range(5))


def test_patience_opens_it_without_success():
    stream = make(patience=3)
    assert [stream.report(0.0) for _ in range(6)] == [False, False, True] * 2


@pytest.mark.parametrize("stop", range(8))
def test_a_restored_stream_goes_on_as_the_unbroken_one(stop):
    rng = np.random.default_rng(0)
    success = rng.random(12)
    whole, broken = make(0.5, patience=4), make(0.5, patience=4)
    seen = []
    for number, value in enumerate(success):
        if number == stop:
            state = broken.get_state()
            broken = make(0.5, patience=4)
            broken.set_state(state)
        assert next(whole) == (item := next(broken))
        assert whole.report(value) == broken.report(value)
        seen.append(item)
    assert seen[-1][0] == 2
