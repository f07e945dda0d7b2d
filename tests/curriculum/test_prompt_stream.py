"""Prompts bucket by bucket: who is in a bucket, when the next opens, and how it resumes."""

import itertools
import json

import numpy as np
import pytest

from cotjax.config import load
from cotjax.curriculum.prompt_stream import BucketStream, in_buckets, prompt_stream
from cotjax.data.sources import Mixture, RecordList
from cotjax.errors import InputError
from cotjax.interfaces import Record
from tests.tiny import TOKENIZER, with_section

RECORDS = RecordList(Record(f"n/{i}", f"{i}?", "1", ("a",) * (i % 5), i % 5) for i in range(20))


class Numbers:
    """A stream 0, 1, 2, … of a bucket, with a position."""

    def __init__(self, bucket):
        self.bucket, self.place = bucket, 0

    def __next__(self):
        self.place += 1
        return self.bucket, self.place - 1

    def close(self):
        self.place = None

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def make(accuracy=0.7, window=2, after=0):
    buckets = [lambda bucket=bucket: Numbers(bucket) for bucket in range(3)]
    return BucketStream(
        buckets, advance_accuracy=accuracy, advance_window=window, advance_after=after
    )


def buckets(train=RECORDS, **changes):
    curriculum = {"buckets": 3, "examples": 0} | changes
    config = with_section(load(["--name=x"]), "curriculum", **curriculum)
    return in_buckets(config, train, lambda records: np.array([r.difficulty for r in records]))


def difficulties(source):
    return [source[i].difficulty for i in range(len(source))]


# Who is in a bucket.


def test_a_turn_has_the_easier_ones_too_or_its_own_alone():
    easy, middle, whole = buckets()
    assert [len(one) for one in (easy, middle, whole)] == [7, 14, 20]
    alone = buckets(pacing="contiguous")
    assert max(difficulties(easy)) <= min(difficulties(alone[1]))
    assert sum(len(one) for one in alone) == 20


def test_the_direction_says_which_bucket_is_first():
    easy, *_ = buckets(pacing="contiguous")
    *_, last = buckets(pacing="contiguous", direction="hard_first")
    assert difficulties(last) == difficulties(easy)
    assert [len(one) for one in buckets(direction="shuffled")] == [20, 20, 20]


def test_a_long_source_is_cut_and_an_empty_bucket_is_refused():
    assert len(buckets(examples=9)[-1]) == 9
    with pytest.raises(InputError, match="buckets = 10: a bucket would be empty.* Set .* <= 9"):
        buckets(examples=9, buckets=10)


def test_a_mixture_has_no_buckets():
    with pytest.raises(InputError, match="curriculum.buckets = 3: .* Set curriculum.buckets = 1"):
        buckets(Mixture((RECORDS, RECORDS), (1.0, 1.0)))


def test_replay_draws_its_share_from_earlier_buckets():
    first, second, third = buckets(pacing="contiguous", replay=0.25)
    assert len(first.parts) == 1
    alone = buckets(pacing="contiguous")
    for turn, source in ((1, second), (2, third)):
        (now, share), (before, rest) = source.parts
        assert (share, rest) == (0.75, 0.25)
        assert difficulties(now) == difficulties(alone[turn])
        assert sorted(difficulties(before)) == sorted(sum(map(difficulties, alone[:turn]), []))


# The stream of prompts.


def stream_of(**changes):
    config = load(["--name=x", "--rollout.prompts=4"])
    config = with_section(config, "curriculum", **{"buckets": 3, "examples": 0} | changes)

    def prompt(progress):
        return lambda record, rng: f"{record.question} {progress}"

    def measure(records):
        return np.array([record.difficulty for record in records])

    return prompt_stream(config, TOKENIZER, RECORDS, prompt, measure)


def questions(stream, batches):
    return [r.id for _, records in itertools.islice(stream, batches) for r in records]


def test_one_bucket_is_asked_with_full_progress_and_not_measured():
    stream = stream_of(buckets=1)
    batch, records = next(stream)
    shown = TOKENIZER.decode(batch.tokens[0][batch.mask[0]])
    assert shown == f"{records[0].question} 1.0" and stream.num_buckets == 1
    stream.close()


def test_a_bucket_is_drawn_from_until_the_next_opens_and_progress_grows():
    stream, seen = stream_of(pacing="contiguous", advance_accuracy=0.5, advance_window=1), []
    for bucket, size in enumerate((7, 7, 6)):
        asked = questions(stream, 7)
        assert stream.bucket == bucket and len(set(asked)) == size
        batch, _ = next(stream)
        assert TOKENIZER.decode(batch.tokens[0][batch.mask[0]]).endswith(f" {bucket / 2}")
        seen += set(asked)
        stream.report(1.0)
    assert sorted(seen) == sorted(record.id for record in RECORDS)
    stream.close()


def test_a_stream_of_prompts_resumes_inside_a_bucket():
    settings = {"advance_accuracy": 0.5, "advance_window": 2}
    first, second = stream_of(**settings), stream_of(**settings)
    questions(first, 3)
    assert not first.report(1.0) and first.report(1.0) and not first.report(1.0)
    questions(first, 2)
    second.set_state(json.loads(json.dumps(first.get_state())))
    assert first.report(1.0) == second.report(1.0) and second.bucket == 2
    assert questions(first, 4) == questions(second, 4)


# When the next bucket opens.


def test_success_opens_the_next_bucket_and_the_last_stays():
    stream = make()
    assert [stream.report(x) for x in (0.9, 0.4, 0.9, 0.5)] == [False, False, False, True]
    assert stream.bucket == 1 and next(stream) == (1, 0)
    assert not stream.report(1.0) and stream.report(1.0) and stream.bucket == 2
    assert not any(stream.report(1.0) for _ in range(5))


def test_patience_opens_it_without_success():
    stream = make(after=3)
    assert [stream.report(0.0) for _ in range(6)] == [False, False, True] * 2


@pytest.mark.parametrize("stop", range(8))
def test_a_restored_stream_goes_on_as_the_unbroken_one(stop):
    rng = np.random.default_rng(0)
    success = rng.random(12)
    whole, broken = make(0.5, after=4), make(0.5, after=4)
    seen = []
    for number, value in enumerate(success):
        if number == stop:
            state = broken.get_state()
            broken = make(0.5, after=4)
            broken.set_state(state)
        assert next(whole) == (item := next(broken))
        assert whole.report(value) == broken.report(value)
        seen.append(item)
    assert seen[-1][0] == 2
