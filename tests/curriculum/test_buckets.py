"""The curriculum's rows: which example comes when, and where it lies."""

import numpy as np
import pytest

from cotjax.curriculum.buckets import BucketRows, bucket_pools, bucket_starts

BUCKET = np.array([1, 0, 2, 0, 1, 2])


def example(index):
    size = 3 + index % 3
    return {
        "tokens": np.full(size, index + 1),
        "targets": np.full(size, index + 101),
        "weight": np.ones(size),
    }


def rows(pools, **changes):
    settings = {"replay": 0.0, "seed": 0, "rows": 2, "length": 10} | changes
    return BucketRows(example, pools, **settings)


@pytest.mark.parametrize(
    ("direction", "pacing", "expected"),
    [
        ("easy_first", "contiguous", [[1, 3], [0, 4], [2, 5]]),
        ("hard_first", "contiguous", [[2, 5], [0, 4], [1, 3]]),
        ("easy_first", "cumulative", [[1, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4, 5]]),
        ("shuffled", "contiguous", [list(range(6))] * 3),
    ],
)
def test_pools(direction, pacing, expected):
    pools = bucket_pools(BUCKET, direction=direction, pacing=pacing)
    assert [pool.tolist() for pool in pools] == expected


def test_steps_are_shared_out_in_proportion_to_the_data():
    pools = bucket_pools(BUCKET, direction="easy_first", pacing="cumulative")
    assert bucket_starts(pools, 60) == (0, 10, 30)


def test_each_pass_has_every_example_once_in_another_order():
    stream = rows([np.arange(50)])
    passes = [[stream.example_at(0, 50 * n + i) for i in range(50)] for n in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(50)) and passes[0] != passes[1]
    assert passes[0] == rows([np.arange(50)]).take(0, 50)
    assert passes[0] != rows([np.arange(50)], seed=1).take(0, 50)


def test_replay_draws_from_earlier_buckets_only():
    stream = rows([np.arange(100), np.arange(100, 200), np.arange(200, 300)], replay=0.4)
    assert max(stream.take(0, 100)) < 100
    drawn = np.array(stream.take(1, 2000))
    assert 0.36 < (drawn < 100).mean() < 0.44 and drawn.max() < 200


def test_a_batch_holds_whole_examples_and_says_where():
    stream = rows([np.arange(6)])
    batch, spans = stream.next_rows(0)
    assert batch.tokens.shape == (2, 10) and len(spans) >= 4
    seen = np.zeros((2, 10), bool)
    for span in spans:
        inside = span.row, slice(span.start, span.stop)
        assert not seen[inside].any()
        seen[inside] = True
        np.testing.assert_array_equal(batch.tokens[inside], span.example + 1)
        np.testing.assert_array_equal(batch.targets[inside], span.example + 101)
        np.testing.assert_array_equal(batch.positions[inside], range(span.stop - span.start))
        assert len(set(batch.segment[inside])) == 1
    np.testing.assert_array_equal(batch.segment > 0, seen)
    assert not batch.weight[~seen].any()


def test_nothing_is_lost_between_batches_and_a_stream_resumes():
    stream, seen = rows([np.arange(6)]), []
    for _ in range(3):
        seen += [span.example for span in stream.next_rows(0)[1]]
    assert seen == rows([np.arange(6)]).take(0, len(seen))
    again = rows([np.arange(6)])
    again.set_state(stream.get_state())
    assert again.next_rows(0)[1] == stream.next_rows(0)[1]


def test_a_replayed_example_is_drawn_as_from_all_earlier_pools_behind_each_other():
    pools = [np.arange(7), np.arange(20, 23), np.arange(40, 90), np.arange(100, 110)]
    stream = rows(pools, replay=0.5, seed=3)
    for bucket in (1, 2, 3):
        for place in range(40):
            rng = np.random.default_rng((3, 1, bucket, place))
            replayed = rng.random() < 0.5
            found = stream.example_at(bucket, place)
            assert (found in pools[bucket]) != replayed
            if replayed:
                assert found == rng.choice(np.concatenate(pools[:bucket]))
