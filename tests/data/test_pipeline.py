"""Streams of batches: every record once an epoch, rows that keep examples apart, exact resuming."""

import itertools
import json

import numpy as np
import pytest

from cotjax.data.pipeline import prompt_batches, supervised_batches
from cotjax.interfaces import PromptBatch, Record

LENGTH = 12


class Numbers:
    """Record i asks "i"; its example has 1 + i % 5 tokens, all of them i + 1."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return Record(f"n/{index}", str(index), str(index), (), 1)


def encode_row(record, rng=None):
    number = int(record.question)
    size = 1 + number % 5
    return {
        "tokens": np.full(size, number + 1, np.int32),
        "targets": np.full(size, -number - 1, np.int32),
        "weight": np.linspace(0, 1, size, dtype=np.float32),
    }


def draw(record, rng):
    return f"{record.question}/{rng.random()}"


def encode_batch(ids, records, texts):
    assert [text.split("/")[0] for text in texts] == [record.question for record in records]
    tokens = np.array([[int(record.question)] for record in records], np.int32)
    return PromptBatch(tokens, np.ones_like(tokens, bool), np.asarray(ids, np.int32))


def rows(seed=0, size=20):
    return supervised_batches(
        Numbers(size), encode_row, seed=seed, batch_size=4, sequence_length=LENGTH
    )


def prompts(seed=0, size=20, batch_size=4):
    return prompt_batches(Numbers(size), draw, encode_batch, seed=seed, batch_size=batch_size)


def examples(batch):
    """(row, start, tokens) of every example in a packed batch."""
    for row, segments in enumerate(batch.segment):
        for segment in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == segment)
            assert (np.diff(places) == 1).all(), "an example lies in one piece"
            yield row, places


def test_packed_examples_are_whole_and_never_overlap():
    seen = set()
    for batch in itertools.islice(rows(), 10):
        assert batch.tokens.shape == (4, LENGTH)
        for row, places in examples(batch):
            (number,) = set(batch.tokens[row, places] - 1)
            expected = encode_row(Numbers(20)[number])
            np.testing.assert_array_equal(batch.tokens[row, places], expected["tokens"])
            np.testing.assert_array_equal(batch.targets[row, places], expected["targets"])
            np.testing.assert_array_equal(batch.weight[row, places], expected["weight"])
            np.testing.assert_array_equal(batch.positions[row, places], np.arange(len(places)))
            seen.add(number)
    assert seen == set(range(20))


def test_padding_has_segment_zero_and_no_weight():
    for batch in itertools.islice(rows(), 10):
        padding = batch.segment == 0
        assert not batch.weight[padding].any() and not batch.tokens[padding].any()


def test_packing_fills_the_rows():
    batches = list(itertools.islice(rows(), 10))
    assert np.mean([(batch.segment > 0).mean() for batch in batches]) > 0.8


def test_every_record_comes_once_an_epoch_in_another_order_each_time():
    asked = [record.question for _, some in itertools.islice(prompts(), 15) for record in some]
    epochs = [asked[:20], asked[20:40], asked[40:]]
    assert all(sorted(epoch, key=int) == [str(i) for i in range(20)] for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_the_ids_of_prompts_never_repeat():
    ids = [i for batch, _ in itertools.islice(prompts(), 15) for i in batch.ids.tolist()]
    assert len(set(ids)) == len(ids) == 60


def test_prompts_come_with_their_own_records():
    for batch, records in itertools.islice(prompts(), 6):
        assert batch.tokens[:, 0].tolist() == [int(record.question) for record in records]


def test_an_epoch_that_no_batch_divides_loses_no_record():
    asked = [r.question for _, some in itertools.islice(prompts(size=5), 5) for r in some]
    assert sorted(asked) == sorted(str(i) for i in range(5) for _ in range(4))


def test_the_seed_decides_the_order():
    def order(seed):
        return [r.question for _, some in itertools.islice(prompts(seed), 5) for r in some]

    assert order(0) == order(0) != order(1)


def same(one, other):
    if isinstance(one, tuple):
        return same(one[0], other[0]) and one[1] == other[1]
    return all(np.array_equal(x, vars(other)[name]) for name, x in vars(one).items())


@pytest.mark.parametrize("make", [rows, prompts])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_restored_iterator_continues_as_if_nothing_had_happened(make, taken):
    first = make()
    for _ in range(taken):
        next(first)
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint keeps it
    expected = [next(first) for _ in range(6)]
    second = make()
    next(second)
    second.set_state(state)
    assert all(same(next(second), batch) for batch in expected)
