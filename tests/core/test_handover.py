"""The adaptive schedule of teachers."""

import math

import numpy as np
import pytest

from cotjax.core.handover import HandOver, handover_weights, observe

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
