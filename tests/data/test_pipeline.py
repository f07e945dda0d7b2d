"""Streams of batches: every record once an epoch, rows that keep examples apart, exact resuming."""

import itertools
import json

import numpy as np
import pytest

from cotjax.data.pipeline import _permutation, prompt_batches, supervised_batches
from cotjax.data.sources import Mixture, OneSource
from cotjax.errors import InputError
from cotjax.interfaces import Record

LENGTH = 12


class Numbers(OneSource):
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


class Digits:
    """The number before the slash is one token; two-digit numbers are two."""

    pad_token_id = 99

    def encode(self, text, *, add_special_tokens):
        number = text.split("/")[0]
        return [int(number)] * len(number)


def rows(seed=0, size=20):
    return supervised_batches(
        Numbers(size), encode_row, seed=seed, batch_size=4, sequence_length=LENGTH
    )


def prompts(seed=0, size=20, batch_size=4):
    return prompt_batches(
        Numbers(size), draw, Digits(), seed=seed, batch_size=batch_size, max_length=2
    )


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
        assert batch.tokens[:, -1].tolist() == [int(record.question) for record in records]


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


# What depends on seed, epoch and place alone.


def drawn(seed, size=20):
    """(number, what its generator drew) of the first four epochs, ascending."""
    texts = []

    def note(record, rng):
        texts.append((int(record.question), rng.random()))
        return record.question

    batches = prompt_batches(Numbers(size), note, Digits(), seed=seed, batch_size=4, max_length=2)
    for _ in range(size):
        next(batches)
    batches.close()
    return texts[: 4 * size]


def test_a_record_draws_anew_each_epoch_and_the_same_in_each_run():
    assert drawn(0) == drawn(0) != drawn(1)
    assert len({number for _, number in drawn(0)}) == 80


def rows_drawn(greedy=False, source=None):
    """(number, its first two draws, how many came after) of three epochs of rows."""
    seen = []

    def note(record, rng):
        number = int(record.question)
        seen.append((number, rng.random(), rng.random()))
        for _ in range(number * 9 * greedy):
            assert 0 <= rng.random() < 1
        return encode_row(record)

    stream = supervised_batches(
        Numbers(20) if source is None else source,
        note,
        seed=0,
        batch_size=4,
        sequence_length=LENGTH,
    )
    while len(seen) < 60:
        next(stream)
    stream.close()
    return seen[:60]


def test_rows_hold_every_record_once_an_epoch_in_another_order_each_time():
    epochs = [[one[0] for one in rows_drawn()[i : i + 20]] for i in (0, 20, 40)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_what_a_row_draws_is_its_own_however_much_another_draws():
    modest = rows_drawn()
    assert modest == rows_drawn(greedy=True)
    assert len({draw for _, *drawn in modest for draw in drawn}) == 120


def test_rows_of_a_mixture_come_by_weight_from_every_record():
    seen = [one[0] for one in rows_drawn(source=Mixture((Named(5, 0), Named(15, 50)), (1.0, 3.0)))]
    assert sorted(set(seen)) == [*range(5), *range(50, 65)]
    assert sum(number < 50 for number in seen) == 15


def test_processes_divide_each_batch_without_overlap_or_loss():
    def batches(rows):
        stream = supervised_batches(
            Numbers(20), encode_row, seed=0, batch_size=6, sequence_length=LENGTH, rows=rows
        )
        return [vars(next(stream)) for _ in range(8)], stream.get_state()

    whole, state = batches(slice(None))
    parts = [batches(rows) for rows in np.array_split(np.arange(6), 3)]
    for number, batch in enumerate(whole):
        for key, values in batch.items():
            joined = np.concatenate([part[number][key] for part, _ in parts])
            np.testing.assert_array_equal(joined, values)
    assert all(place == state for _, place in parts)  # so another number of them goes on with it


def worker_rows(workers):
    return supervised_batches(
        Numbers(20), encode_row, seed=0, batch_size=4, sequence_length=LENGTH, workers=workers
    )


def test_workers_change_nothing_and_a_place_is_theirs_too():
    here, there = worker_rows(0), worker_rows(2)
    for _ in range(5):
        assert same(next(here), next(there))
    state = json.loads(json.dumps(there.get_state()))
    there.close()
    assert state == here.get_state()
    here.set_state(state)
    fresh = worker_rows(0)
    fresh.set_state(state)
    assert all(same(next(here), next(fresh)) for _ in range(5))


def test_a_batch_is_placed_ahead_but_the_state_is_of_what_was_given():
    placed = []
    stream = supervised_batches(
        Numbers(20), encode_row, seed=0, batch_size=4, sequence_length=LENGTH,
        place=lambda batch: placed.append(batch) or len(placed),
    )  # fmt: skip
    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    state = stream.get_state()
    expected = rows()
    for _ in range(3):
        next(expected)
    assert state == expected.get_state()
    stream.set_state(state)
    next(stream)
    stream.close()
    assert len(placed) >= 5 and same(placed[-2], next(expected))


def test_an_encoder_that_fails_fails_the_step_and_says_why():
    def fail(record, rng):
        raise InputError("too long")

    for place in (None, lambda batch: batch):
        stream = supervised_batches(
            Numbers(20), fail, seed=0, batch_size=4, sequence_length=LENGTH, place=place
        )
        with pytest.raises(InputError, match="too long"):
            next(stream)


# Widths.


def widths_of(count, batches=40, size=200):
    stream = prompt_batches(
        Numbers(size), draw, Digits(), seed=0, batch_size=4, max_length=4, widths=count
    )
    return [next(stream) for _ in range(batches)]


def test_one_width_is_the_limit():
    assert {batch.tokens.shape for batch, _ in widths_of(1)} == {(4, 4)}


def test_several_widths_fit_each_batch_and_are_few():
    batches = widths_of(2, batches=200)
    assert {batch.tokens.shape[1] for batch, _ in batches} == {2, 4}
    for batch, records in batches:
        longest = max(len(record.question) for record in records)
        assert batch.tokens.shape[1] == (2 if longest <= 2 else 4)
        assert batch.mask.sum() == sum(len(record.question) for record in records)
    asked = sorted(int(record.question) for _, records in batches for record in records)
    assert asked == sorted(list(range(200)) * 4)  # each record still comes once an epoch


def test_widths_do_not_choose_whose_prompts_are_a_batch():
    ids = lambda batches: [[record.id for record in records] for _, records in batches]  # noqa: E731
    assert ids(widths_of(3)) == ids(widths_of(1))


def test_more_widths_than_tokens():
    with pytest.raises(InputError, match="data.prompt_widths = 5: more than .* = 4"):
        widths_of(5)


# Mixtures.


class Named(Numbers):
    """Numbers from `start` on."""

    def __init__(self, size, start):
        super().__init__(size)
        self.start = start

    def __getitem__(self, index):
        return super().__getitem__(self.start + index)


def questions(stream, batches):
    return [int(r.question) for _, some in itertools.islice(stream, batches) for r in some]


def stream_of(source, seed=0):
    return prompt_batches(source, draw, Digits(), seed=seed, batch_size=4, max_length=4)


def test_a_mixture_draws_by_weight_and_each_source_in_epochs():
    asked = questions(stream_of(Mixture((Named(10, 0), Named(30, 50)), (1.0, 3.0))), 40)
    small = [number for number in asked if number < 50]
    assert len(small) == 40 and sorted(small) == sorted(list(range(10)) * 4)
    assert sorted(set(asked) - set(small)) == list(range(50, 80))
    window = [sum(number < 50 for number in asked[i : i + 8]) for i in range(0, 160, 8)]
    assert set(window) == {2}  # the weights hold in every stretch, not only in the mean


def test_the_order_of_a_pass_is_numpy_s_own_in_half_of_its_memory():
    order = _permutation(1000, 3, 1)
    np.testing.assert_array_equal(order, np.random.default_rng((3, 1)).permutation(1000))
    assert order.nbytes == 4 * 1000
