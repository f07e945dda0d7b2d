"""Laws of buckets, rank fusion and teacher schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from cotjax.core.curriculum import HandOver, handover_weights, observe
from tests import oracles_distillation as oracle

signals = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(np.array)
SCHEDULES = ["step", "linear", "cosine"]
every_schedule = pytest.mark.parametrize("kind", SCHEDULES)


@settings(deadline=None)
@given(difficulty=signals, buckets=st.integers(1, 30), seed=st.integers(0, 99))
def test_buckets_are_nearly_equal_and_ascending(difficulty, buckets, seed):
    buckets = min(buckets, len(difficulty))
    bucket = core.assign_buckets(difficulty, num_buckets=buckets, seed=seed)
    sizes = np.bincount(bucket, minlength=buckets)
    assert bucket.shape == difficulty.shape and bucket.dtype == np.int64
    assert len(sizes) == buckets and sizes.max() - sizes.min() <= 1
    hardest = [difficulty[bucket == b].max() for b in range(buckets)]
    easiest = [difficulty[bucket == b].min() for b in range(buckets)]
    assert all(h <= e for h, e in zip(hardest[:-1], easiest[1:], strict=True))
    again = core.assign_buckets(difficulty, num_buckets=buckets, seed=seed)
    np.testing.assert_array_equal(bucket, again)


def test_the_seed_breaks_ties_and_nothing_else():
    tied = np.zeros(64)
    first, second = (core.assign_buckets(tied, num_buckets=4, seed=seed) for seed in (0, 1))
    assert (first != second).any()
    assert (np.diff(first) < 0).any(), "file order must not decide"
    distinct = np.random.default_rng(0).permutation(64)
    first, second = (core.assign_buckets(distinct, num_buckets=4, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, distinct // 16)


@pytest.mark.parametrize("buckets", [0, 4])
def test_more_buckets_than_examples_are_refused(buckets):
    with pytest.raises(ValueError, match=f"num_buckets = {buckets}: 3 examples allow 1 to 3"):
        core.assign_buckets(np.arange(3), num_buckets=buckets, seed=0)


def test_a_difficulty_that_is_nan_is_located():
    signal = np.array([1.0, 2.0, np.nan, np.nan])
    with pytest.raises(ValueError, match="example 2 is NaN"):
        core.assign_buckets(signal, num_buckets=2, seed=0)
    with pytest.raises(ValueError, match="example 2 is NaN"):
        core.rank_fusion(np.arange(4), signal)


@settings(deadline=None)
@given(first=signals, k=st.sampled_from([1, 60]), seed=st.integers(0, 99))
def test_rank_fusion_equals_the_loops(first, k, seed):
    second = np.random.default_rng(seed).permutation(first)
    fused = core.rank_fusion(first, second, k=k)
    np.testing.assert_allclose(fused, oracle.rank_fusion(first, second, k=k), rtol=1e-12)
    order = np.random.default_rng(seed).permutation(len(first))
    np.testing.assert_allclose(core.rank_fusion(first[order], second[order], k=k), fused[order])


def test_rank_fusion_keeps_the_order_of_one_signal_and_ignores_its_unit():
    signal = np.random.default_rng(0).permutation(20)
    fused = core.rank_fusion(signal)
    np.testing.assert_array_equal(np.argsort(fused), np.argsort(signal))
    np.testing.assert_array_equal(core.rank_fusion(np.exp(signal / 3.0)), fused)
    assert fused.max() == 1 / 61 and fused.dtype == np.float64


def test_rank_fusion_refuses_signals_that_do_not_match():
    with pytest.raises(ValueError, match="at least one"):
        core.rank_fusion()
    with pytest.raises(ValueError, match=r"different lengths: \[2, 3\]"):
        core.rank_fusion(np.arange(3), np.arange(2))


@every_schedule
@pytest.mark.parametrize("teachers", [1, 2, 5])
def test_schedules_equal_the_loops_and_sum_to_one(kind, teachers):
    progress = np.linspace(-0.5, 1.5, 401)
    schedule = jax.jit(
        jax.vmap(lambda x: core.teacher_weights(x, num_teachers=teachers, kind=kind))
    )
    weights = np.asarray(schedule(progress.astype(np.float32)))
    expected = [oracle.teacher_weights(x, teachers, kind) for x in progress]
    inside = np.abs(progress * teachers - np.round(progress * teachers)) > 1e-3
    keep = inside if kind == "step" else slice(None)
    np.testing.assert_allclose(weights[keep], np.array(expected)[keep], atol=1e-5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert weights.min() >= 0 and weights.dtype == np.float32
    assert ((weights > 0).sum(-1) <= 2).all()
    used = [set(np.flatnonzero(row)) for row in weights]
    assert all(max(u) - min(u) <= 1 for u in used)


@every_schedule
def test_schedules_go_from_the_weakest_teacher_to_the_strongest(kind):
    weights = [
        np.asarray(core.teacher_weights(x, num_teachers=4, kind=kind)) for x in (0.0, 0.4, 0.8, 1.0)
    ]
    np.testing.assert_array_equal(weights[0], [1, 0, 0, 0])
    np.testing.assert_array_equal(weights[-1], [0, 0, 0, 1])
    mean_teacher = [w @ np.arange(4) for w in weights]
    assert mean_teacher == sorted(mean_teacher)


@pytest.mark.parametrize("teachers", [1, 2, 3, 6, 7])
def test_stage_m_of_step_is_taught_by_the_stated_teacher(teachers):
    stages = [(m, total) for total in range(1, 50) for m in range(1, total + 1)]
    progress = np.array([m / total for m, total in stages], np.float32)
    weights = jax.jit(jax.vmap(lambda x: core.teacher_weights(x, num_teachers=teachers)))(progress)
    stated = [-(-m * teachers // total) for m, total in stages]
    np.testing.assert_array_equal(np.argmax(weights, axis=-1) + 1, stated)


def test_linear_is_the_mean_of_neighbours_half_way():
    weights = core.teacher_weights(jnp.float32(0.25), num_teachers=3, kind="linear")
    np.testing.assert_array_equal(weights, [0.5, 0.5, 0])
    weights = core.teacher_weights(jnp.float32(0.125), num_teachers=3, kind="cosine")
    np.testing.assert_allclose(weights, [0.5 + np.sqrt(0.125), 0.5 - np.sqrt(0.125), 0], atol=1e-6)


def test_bad_schedules_are_named():
    with pytest.raises(ValueError, match="num_teachers = 0"):
        core.teacher_weights(0.5, num_teachers=0)
    with pytest.raises(ValueError, match="kind = 'square'"):
        core.teacher_weights(0.5, num_teachers=2, kind="square")  # type: ignore


# The adaptive schedule of teachers.

SETTINGS = {
    **{"num_teachers": 3, "length": 4, "patience": 2},
    **{"min_progress": 0.1, "threshold": 1.0},
}


def watch(losses, every=10, state=None, pass_rate=0.0, **changes):
    """(step, cause) of every hand-over, and the last state."""
    state, causes = HandOver() if state is None else state, []
    for i, loss in enumerate(losses, 1):
        state, cause = observe(state, loss, pass_rate, step=every * i, **(SETTINGS | changes))
        causes += [(every * i, cause)] if cause else []
    return causes, state


def test_a_falling_loss_keeps_the_teacher():
    causes, state = watch([1.0, 0.8, 0.6, 0.4])
    assert causes == [] and state == HandOver(0, -1, 0.4, 0)


def test_patience_many_measurements_without_progress_hand_over():
    causes, state = watch([1.0, 0.95, 0.92])
    assert causes == [(30, "plateau")] and state == HandOver(1, 30, math.inf, 0)


def test_progress_starts_patience_anew():
    assert watch([1.0, 0.95, 0.8, 0.79])[0] == []


def test_a_pass_rate_above_the_threshold_hands_over():
    assert watch([1.0, 0.5], pass_rate=0.7, threshold=0.6)[0][0] == (10, "pass_rate")
    assert watch([1.0, 0.5], pass_rate=0.6, threshold=0.6)[0] == []


def test_the_last_teacher_stays():
    state = HandOver(teacher=2, began=0)
    assert watch([1.0] * 9, state=state) == ([], state)


def test_nothing_is_decided_during_a_hand_over():
    state = HandOver(teacher=1, began=8)
    assert watch([1.0], state=state)[1] == state  # step 10 of 8..11
    assert watch([1.0], every=12, state=state)[1].best == 1.0


@pytest.mark.parametrize("length", [1, 4])
def test_weights_pass_evenly_and_sum_to_1(length):
    state = HandOver(teacher=2, began=10)
    weights = np.array(
        [handover_weights(state, step, num_teachers=3, length=length) for step in range(10, 20)]
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    expected = np.minimum(np.arange(1, 11) / length, 1)
    np.testing.assert_allclose(weights[:, 2], expected)
    assert not weights[:, 0].any()
    np.testing.assert_array_equal(
        handover_weights(HandOver(), 0, num_teachers=3, length=length), [1, 0, 0]
    )
