"""Digests of a step: what differs has another one, and the first token that differs is found."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.interfaces import PromptBatch, Record, Rollout, Step, TokenBatch
from cotjax.training.digests import (
    LARGEST,
    MARKS,
    digests,
    first_difference,
    record_digest,
    sequence,
)


@pytest.mark.parametrize("length", [1, 5, MARKS, 200])
@pytest.mark.parametrize("longest", [64, 200, 5000])
def test_the_first_token_that_differs_is_found(length, longest):
    rng = np.random.default_rng(length)
    missed = 0
    for place in {0, length // 2, length - 1}:
        tokens = rng.integers(0, 50_000, length)
        other = tokens.copy()
        other[place:] = rng.integers(0, 50_000, length - place)
        other[place] = tokens[place] + 1
        first, last = first_difference(sequence(tokens, longest), sequence(other, longest))
        assert last - first + 1 == -(-longest // MARKS)
        missed += not first <= place <= last
    assert not missed  # one in 64 may be found a mark later; none of these is


def test_equal_sequences_and_one_that_goes_on():
    tokens = np.arange(5)
    assert first_difference(sequence(tokens, 64), sequence(tokens, 64)) is None
    assert first_difference(sequence(tokens, 64), sequence(tokens[:3], 64)) == (3, 3)
    assert first_difference(sequence(tokens, 64), sequence(tokens[:0], 64)) == (0, 0)
    assert first_difference(sequence(tokens, 64), sequence(tokens, 65)) == (0, 5)


def rows(**changes):
    shape = 2, 6
    arrays = {
        "tokens": np.arange(12, dtype=np.int32).reshape(shape),
        "targets": np.ones(shape, np.int32),
        "weight": np.ones(shape, np.float32),
        "segment": np.ones(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
    }
    return TokenBatch(**arrays | changes)


def of(batch, data=None):
    found = digests(Step(batch, {}, [], data=data))
    assert json.loads(json.dumps(found)) == found
    return found


def test_arrays_are_told_apart_by_name_and_rows_by_number():
    one = of([(rows(), None)])
    assert set(one["batch"]) == {"tokens", "targets", "weight", "segment", "positions"}
    weight = np.ones((2, 6), np.float32)
    weight[1, 3] = np.nextafter(np.float32(1), np.float32(2))
    other = of([(rows(weight=weight), None)])
    assert [name for name in one["batch"] if one["batch"][name] != other["batch"][name]] == [
        "weight"
    ]
    assert one["rows"][0] == other["rows"][0] and one["rows"][1] != other["rows"][1]
    assert one["rows"][1].partition(".")[2] == other["rows"][1].partition(".")[2]


def test_where_they_lie_does_not_matter_and_shapes_and_types_do():
    there = jax.tree.map(jnp.asarray, rows())
    assert of([there]) == of([rows()])
    values = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32)]
    assert len({of([one])["batch"]["values"] for one in values}) == 3


def test_random_keys_plain_numbers_and_what_is_too_large():
    one, other = (of({"key": jax.random.key(seed), "alpha": 0.5}) for seed in (1, 2))
    assert one["batch"]["key"] != other["batch"]["key"]
    assert one["batch"]["alpha"] == other["batch"]["alpha"]
    large = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), (LARGEST + 1,), (0,))
    assert of([large]) == of([large + np.int8(0)])


def test_only_the_data_counts_where_a_stage_names_it():
    data = {"rows": rows()}
    assert of([rows()], data) == of([jnp.zeros(3)], data)


RECORD = Record("a:1", "q", "7", ("s",), 1)


def test_a_record_is_its_text():
    assert record_digest(RECORD) == record_digest(Record("a:1", "q", "7", ("s",), 9))
    others = [
        Record("a:2", "q", "7", ("s",), 1),
        Record("a:1", "p", "7", ("s",), 1),
        Record("a:1", "q", "8", ("s",), 1),
        Record("a:1", "q", "7", ("s", "t"), 1),
        Record("a:1", "q\ud800", "7", ("s",), 1),
    ]
    assert len({record_digest(one) for one in (RECORD, *others)}) == 6


class Groups:
    """One group of two completions."""

    def __init__(self, tokens, reward=(1.0, -2.0)):
        shape = 1, 2, 3
        prompt = np.array([[0, 4, 5]])
        self.prompts = PromptBatch(prompt, prompt > 0, np.zeros(1, np.int32))
        mask = np.array([[[True, True, True], [True, True, False]]])
        zeros = np.zeros(shape, np.float32)
        self.rollout = Rollout(np.array(tokens)[None], mask, zeros, zeros, np.ones((1, 2), int))
        self.records = [RECORD]
        self.reward = np.array([reward], np.float32)


def test_groups_have_records_prompts_completions_and_rewards():
    groups = Groups([[1, 2, 3], [4, 5, 0]])
    found = digests(Step([], {}, [], groups=groups))
    assert found == {
        "batch": {},
        "records": [["a:1", record_digest(RECORD)]],
        "prompts": [sequence(np.array([4, 5]), 3)],
        "completions": [[sequence(np.array([1, 2, 3]), 3), sequence(np.array([4, 5]), 3)]],
        "rewards": [[1.0, -2.0]],
    }
    padded = digests(Step([], {}, [], groups=Groups([[1, 2, 3], [4, 5, 9]])))
    assert padded == found  # what is behind the end does not count
