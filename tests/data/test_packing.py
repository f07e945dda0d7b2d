"""Rows of one length: examples lie whole, in one piece and apart; rows are full."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.data.packing import RowLimit, first_fit, pack, pack_in_order

LENGTH = 10
sizes = st.lists(st.integers(1, LENGTH), min_size=1, max_size=40)


def example(number, size):
    return {
        "tokens": np.full(size, number + 1, np.int32),
        "targets": np.full(size, -number - 1, np.int32),
        "weight": np.full(size, 0.5, np.float32),
    }


def pieces(rows):
    """(number, size) of every example, each of which lies in one piece."""
    for row, segments in enumerate(rows["segment"]):
        for segment in range(1, segments.max(initial=0) + 1):
            (places,) = np.nonzero(segments == segment)
            (number,) = set(rows["tokens"][row, places] - 1)
            assert (np.diff(places) == 1).all()
            np.testing.assert_array_equal(rows["targets"][row, places], -number - 1)
            np.testing.assert_array_equal(rows["weight"][row, places], np.float32(0.5))
            np.testing.assert_array_equal(rows["positions"][row, places], np.arange(len(places)))
            yield number, len(places)
    padding = rows["segment"] == 0
    for key in ("tokens", "targets", "weight", "positions"):
        assert not rows[key][padding].any()


@given(sizes)
def test_every_example_is_packed_once_and_whole(sizes):
    examples = [example(number, size) for number, size in enumerate(sizes)]
    rows = pack(examples, length=LENGTH, rng=np.random.default_rng(0))
    assert sorted(pieces(rows)) == list(enumerate(sizes))
    # Best fit, longest first: no two rows could be one.
    used = np.sort((rows["segment"] > 0).sum(axis=1))
    assert len(used) < 2 or used[0] + used[1] > LENGTH


def test_the_order_of_rows_is_drawn_and_does_not_tell_the_length():
    examples = [example(number, 1 + number % LENGTH) for number in range(40)]
    orders = []
    for seed in (0, 0, 1):
        rows = pack(examples, length=LENGTH, rng=np.random.default_rng(seed))
        orders.append([number for number, _ in pieces(rows)])
    assert orders[0] == orders[1] != orders[2]


def test_the_first_row_with_room_is_taken_and_has_less_room():
    free = [2, 5, 5]
    assert first_fit([free], [3]) == [1] and free == [2, 2, 5]
    assert first_fit([free], [6]) == [] and free == [2, 2, 5]


@given(sizes, st.integers(1, 4))
def test_in_order_each_example_lies_where_its_span_says_or_is_left_out(sizes, count):
    batch, spans = pack_in_order(
        [(index, example(index, size)) for index, size in enumerate(sizes)], count, LENGTH
    )
    rows = vars(batch)
    assert sorted(pieces(rows)) == sorted((span.example, span.stop - span.start) for span in spans)
    for span in spans:
        inside = span.row, slice(span.start, span.stop)
        np.testing.assert_array_equal(rows["tokens"][inside], span.example + 1)
    free = LENGTH - (rows["segment"] > 0).sum(axis=1)
    left_out = set(range(len(sizes))) - {span.example for span in spans}
    assert all(sizes[index] > free.min() for index in left_out)


def test_examples_that_fit_nowhere_are_left_out():
    examples = [(index, example(index, 3 + index % 3)) for index in range(6)]
    _, spans = pack_in_order(examples, rows=1, length=7)
    assert [span.example for span in spans] == [0, 1]


def test_a_batch_without_examples_is_all_padding():
    batch, spans = pack_in_order([], rows=2, length=LENGTH)
    assert batch.tokens.shape == (2, LENGTH) and spans == []
    assert not (batch.segment.any() or batch.weight.any())


@pytest.mark.parametrize("key", ["tokens", "targets", "segment", "positions"])
def test_formats_are_those_of_a_batch(key):
    batch, _ = pack_in_order([(0, example(0, 3))], rows=1, length=LENGTH)
    packed = pack([example(0, 3)], length=LENGTH, rng=np.random.default_rng(0))
    assert vars(batch)[key].dtype == packed[key].dtype == np.int32
    assert batch.weight.dtype == packed["weight"].dtype == np.float32


def test_rows_beside_have_to_have_space_for_the_same_examples():
    examples = [(i, example(i, 3)) for i in range(4)]
    alone, _ = pack_in_order(examples, rows=2, length=LENGTH)
    beside = [RowLimit(length=10, sizes=[6, 4, 7, 6])]
    batch, spans = pack_in_order(examples, rows=2, length=LENGTH, beside=beside)
    assert [(span.example, span.row) for span in spans] == [(0, 0), (1, 0), (2, 1)]
    assert not (np.asarray(batch.tokens) == np.asarray(alone.tokens)).all()
    wide = [RowLimit(length=100, sizes=[6, 4, 7, 6])]
    same, _ = pack_in_order(examples, rows=2, length=LENGTH, beside=wide)
    np.testing.assert_array_equal(same.tokens, alone.tokens)
