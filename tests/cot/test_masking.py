"""Masks and shuffles: the counts of the method, one seed one result."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot import Rationale, completion_mask_count, mask_steps, shuffle_steps
from cotjax.errors import InputError
from tests.cot.samples import FUZZ, marked_text

TEN = Rationale("thought", tuple(f"step {k}" for k in range(10)), "42", None)


@pytest.mark.parametrize(
    ("num_steps", "masked"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (6, 3), (7, 3), (8, 4), (9, 4), (10, 5)],
)
def test_completion_mask_count(num_steps, masked):
    assert completion_mask_count(num_steps) == masked


@pytest.mark.parametrize("make_rng", [random.Random, np.random.default_rng])
@pytest.mark.parametrize("mode", ["scattered", "contiguous"])
def test_equal_seeds_give_equal_masks(make_rng, mode):
    first = [mask_steps(TEN, rng=make_rng(s), count=3, mode=mode) for s in range(20)]
    again = [mask_steps(TEN, rng=make_rng(s), count=3, mode=mode) for s in range(20)]
    assert first == again
    assert len({chosen for _, chosen in first}) > 5


@FUZZ
@given(
    st.lists(marked_text, max_size=7),
    st.integers(0, 9),
    st.sampled_from(["scattered", "contiguous"]),
    st.sampled_from(["step", "equation", "number"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_only_chosen_steps_change(steps, count, mode, granularity, first, last, seed):
    rationale = Rationale("t", tuple(steps), "a")
    masked, chosen = mask_steps(
        rationale, rng=random.Random(seed), count=count, mode=mode, granularity=granularity,
        keep_first=first, keep_last=last, mask_token="⟨mask⟩",
    )  # fmt: skip
    assert len(masked.steps) == len(steps) and len(chosen) <= count
    assert list(chosen) == sorted(set(chosen))
    assert (masked.thinking, masked.answer, masked.layout) == ("t", "a", None)
    for index, (old, new) in enumerate(zip(steps, masked.steps, strict=True)):
        assert ("⟨mask⟩" in new) if index in chosen else (new == old)
    if first:
        assert 0 not in chosen
    if last:
        assert len(steps) - 1 not in chosen
    if granularity == "step":
        assert len(chosen) == max(min(count, len(steps) - first - last), 0)


def test_probability_is_the_chance_of_any_mask():
    rng = random.Random(0)
    hits = sum(bool(mask_steps(TEN, rng=rng, probability=0.7)[1]) for _ in range(2000))
    assert 0.66 < hits / 2000 < 0.74
    assert not mask_steps(TEN, rng=rng, probability=0.0)[1]
    assert mask_steps(TEN, rng=rng, probability=1.0)[1]


@pytest.mark.parametrize(("mode", "places"), [("scattered", 10), ("contiguous", 8)])
def test_places_are_uniform(mode, places):
    rng = random.Random(0)
    size = 1 if mode == "scattered" else 3
    draws = [mask_steps(TEN, rng=rng, count=size, mode=mode)[1] for _ in range(4000)]
    counts = Counter(chosen[0] for chosen in draws)
    assert sorted(counts) == list(range(places))
    assert all(abs(count - 4000 / places) < 0.25 * 4000 / places for count in counts.values())
    assert all(chosen == tuple(range(chosen[0], chosen[0] + size)) for chosen in draws)


@pytest.mark.parametrize(
    ("granularity", "step", "masked"),
    [
        ("step", "6 * 7 = 42", "M"),
        ("number", "He pays $1,234.50, then -.5 for 3", "He pays $M, then -M for M"),
        ("number", "none", None),
        ("equation", "So 6 * 7 = 42 apples, and 5 more.", "So M apples, and 5 more."),
        ("equation", "He has 3 + 4 = $7.", "He has M."),
        ("equation", "so \\[ x \\times 2 = 4 \\] and \\( y \\)", "so M and \\( y \\)"),
        ("equation", "6 * 7 = <<6*7=42>>42", "6 * 7 = M42"),
        ("equation", "$$ a = b $$ and 1 + 1 = 2", "M and M"),
        ("equation", "\\( a = 1, 2 + 2 = 4", "\\( a = M"),
        ("equation", "x = y, 5 = five, 3 + 4", None),
    ],
)
def test_granularity(granularity, step, masked):
    rationale = Rationale(steps=("plain", step))
    result, chosen = mask_steps(
        rationale, rng=random.Random(0), count=2, granularity=granularity, mask_token="M",
        keep_first=True,
    )  # fmt: skip
    assert result.steps == ("plain", step if masked is None else masked)
    assert chosen == (() if masked is None else (1,))


def test_scattered_pairs_are_uniform():
    rng = random.Random(0)
    counts = Counter(mask_steps(TEN, rng=rng, count=2)[1] for _ in range(4500))
    assert len(counts) == 45
    assert all(55 < count < 145 for count in counts.values())


def test_one_step_is_masked_by_default():
    assert len(mask_steps(TEN, rng=random.Random(0))[1]) == 1


def test_a_draw_of_zero_masks_nothing_at_probability_zero():
    class Zero:
        def random(self) -> float:
            return 0.0

    assert mask_steps(TEN, rng=Zero(), probability=0.0)[1] == ()
    assert mask_steps(TEN, rng=Zero(), probability=1e-9)[1] != ()


def test_contiguous_with_keeps_stays_between_them():
    for seed in range(50):
        _, chosen = mask_steps(
            TEN, rng=random.Random(seed), count=8, mode="contiguous", keep_first=True,
            keep_last=True,
        )  # fmt: skip
        assert chosen == tuple(range(1, 9))


@FUZZ
@given(st.lists(marked_text, max_size=7), st.integers(0, 99))
def test_shuffling_is_a_permutation_that_it_names(steps, seed):
    rationale = Rationale("t", tuple(steps), "a")
    shuffled, order = shuffle_steps(rationale, rng=random.Random(seed))
    assert sorted(order) == list(range(len(steps)))
    assert shuffled.steps == tuple(steps[index] for index in order)
    assert (shuffled.thinking, shuffled.answer, shuffled.layout) == ("t", "a", None)


def test_every_order_is_equally_likely():
    rng = random.Random(0)
    three = Rationale(steps=("a", "b", "c"))
    counts = Counter(shuffle_steps(three, rng=rng)[1] for _ in range(3000))
    assert len(counts) == 6
    assert all(420 < count < 580 for count in counts.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": -1}, "count = -1"),
        ({"probability": 1.1}, "probability = 1.1"),
        ({"probability": -0.1}, "probability = -0.1"),
        ({"probability": float("nan")}, "probability = nan"),
        ({"mode": "random"}, 'mode = "random"'),
        ({"granularity": "word"}, 'granularity = "word"'),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        mask_steps(TEN, rng=random.Random(0), **settings)
