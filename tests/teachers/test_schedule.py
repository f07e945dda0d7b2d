"""The weight of every teacher at a step: by the step, fixed, or by what the student does."""

import numpy as np
import pytest

from cotjax.config import load
from cotjax.core.curriculum import HandOver, teacher_weights
from cotjax.teachers.schedule import TeacherSchedule

STEPS = 9


def make(kind, *flags, teachers=3):
    names = [f"teacher-{i}" for i in range(teachers)]
    own = "--stage=distill", "--name=x", f"--steps={STEPS}", f"--curriculum.schedule={kind}"
    return TeacherSchedule(load([*own, "--teachers.paths", *names, *flags]))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_smooth_schedule_goes_from_the_first_step_to_the_last(kind):
    schedule = make(kind)
    for step in range(STEPS):
        expected = teacher_weights(step / (STEPS - 1), num_teachers=3, kind=kind)
        np.testing.assert_allclose(schedule.weights(step, 0.0), expected, atol=1e-6)
    np.testing.assert_array_equal(schedule.weights(STEPS + 5, 0.0), [0, 0, 1])


def test_a_step_schedule_follows_the_progress_of_the_buckets():
    schedule = make("step")
    table = [schedule.weights(0, share).tolist() for share in (1 / 3, 2 / 3, 1)]
    assert table == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_fixed_weights_are_the_configs_at_every_step():
    schedule = make("fixed", "--curriculum.teacher-weights", "0.5", "0", "0.5")
    assert [schedule.weights(step, 1.0).tolist() for step in (0, 8)] == [[0.5, 0, 0.5]] * 2


def test_every_schedule_gives_shares_of_one():
    for kind in ("step", "linear", "cosine", "adaptive"):
        for step in range(STEPS):
            weights = make(kind).weights(step, (step + 1) / STEPS)
            assert weights.min() >= 0 and weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "flags", "expected"),
    [
        ("step", (), [(2,), (1,), (0,)]),
        ("linear", (), [(1, 2), (0, 1), (2, 2), (1, 1), (0, 0)]),
        ("fixed", ("--curriculum.teacher-weights", "0.5", "0", "0.5"), [(0, 2)]),
    ],
)
def test_combinations_are_all_that_slots_may_hold_the_first_ones_last(kind, flags, expected):
    schedule = make(kind, *flags)
    assert sorted(schedule.combinations()) == sorted(expected)
    assert schedule.combinations()[0] == expected[0] or kind == "linear"
    slots = schedule.slots()
    for step in range(STEPS):
        used = np.flatnonzero(schedule.weights(step, (step + 1) / STEPS)).tolist()
        assert tuple((used + used[:1] * slots)[:slots]) in schedule.combinations()


def test_slots_are_as_many_as_teach_at_once():
    assert make("step").slots() == make("adaptive", "--curriculum.handover=1").slots() == 1
    assert make("linear").slots() == make("cosine").slots() == make("adaptive").slots() == 2
    assert make("linear", teachers=1).slots() == 1
    assert make("fixed", "--curriculum.teacher-weights", "0.5", "0", "0.5").slots() == 2


def test_upcoming_teachers_are_those_of_the_next_steps():
    progress = lambda step: (step + 1) / STEPS  # noqa: E731
    assert make("step").upcoming_teachers(0, 3, progress) == {0}
    assert make("step").upcoming_teachers(0, 4, progress) == {0, 1}
    assert make("step").upcoming_teachers(7, 99, progress) == {2}
    assert make("linear").upcoming_teachers(3, 2, progress) == {0, 1}


def test_the_next_teacher_is_loaded_when_patience_is_about_to_end():
    schedule = make("adaptive", "--curriculum.patience=2")
    assert schedule.upcoming_teachers(0, 2, lambda step: 0) == {0}
    schedule.handover = HandOver(stale=1)
    assert schedule.upcoming_teachers(0, 2, lambda step: 0) == {0, 1}
    schedule.handover = HandOver(teacher=2, began=0, stale=1)
    assert max(schedule.upcoming_teachers(5, 2, lambda step: 0)) == 2, "there is no later one"


# Handing over.

ADAPTIVE = "--curriculum.check-every=2", "--curriculum.patience=1", "--curriculum.handover=2"


def follow(schedule, losses, rates=()):
    """(step, sentence, metrics) of every hand-over while the held-out loss goes as given."""
    rates = dict(enumerate(rates))
    found = []
    for step in range(2 * len(losses)):
        metrics, sentence = schedule.maybe_hand_over(
            step,
            ["a", "b", "c"],
            lambda teacher, step=step: losses[step // 2],
            lambda step=step: rates[step // 2],
        )
        assert bool(metrics) == (step > 0 and step % 2 == 0)
        found += [(step, sentence, metrics)] if sentence else []
    return found


def test_a_plateau_hands_over_and_says_why():
    schedule = make("adaptive", *ADAPTIVE)
    ((step, sentence, metrics),) = follow(schedule, [9.0, 5.0, 4.0, 4.0, 3.0])
    assert step == 6 and metrics["handover_by_plateau"] == 1
    assert (
        sentence == "a hands over to b: the held-out loss against it no longer falls (4.0000 nats)"
    )
    assert schedule.handover.teacher == 1
    np.testing.assert_array_equal(schedule.weights(6, 0.0), [0.5, 0.5, 0])
    np.testing.assert_array_equal(schedule.weights(7, 0.0), [0, 1, 0])


def test_a_pass_rate_hands_over_and_is_asked_only_if_it_matters():
    schedule = make("adaptive", *ADAPTIVE, "--curriculum.pass-rate=0.5")
    losses, rates = [9.0, 8.0, 7.0, 6.0], [0.0, 0.2, 0.6, 0.1]
    ((step, sentence, metrics),) = follow(schedule, losses, rates)
    assert step == 4 and metrics["handover_by_pass_rate"] == 1
    assert sentence.endswith("the student solves 60.0% of the held-out problems")
    assert metrics["held_out_pass_rate"] == 0.6
    follow(make("adaptive", *ADAPTIVE), losses)  # would raise a KeyError if it were asked


def test_the_last_teacher_hands_over_to_nobody():
    schedule = make("adaptive", *ADAPTIVE, teachers=2)
    assert len(follow(schedule, [5.0] * 12)) == 1 and schedule.handover.teacher == 1


@pytest.mark.parametrize("kind", ["step", "linear", "cosine"])
def test_other_schedules_measure_nothing(kind):
    def never(*arguments):
        raise AssertionError("nothing is measured")

    assert make(kind).maybe_hand_over(4, ["a"], never, never) == ({}, "")
