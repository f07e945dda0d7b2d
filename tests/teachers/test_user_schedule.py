"""A user's schedule of teachers: asked for every step when the run begins."""

import numpy as np
import pytest

from cotjax.config import Config
from cotjax.errors import PluginError
from cotjax.teachers.schedule import TeacherSchedule


def schedule(function, teachers=3, steps=5):
    config = Config.for_stage(
        "distill",
        name="r",
        steps=steps,
        curriculum={"schedule": function},
        teachers={"paths": ["t"] * teachers},
    )
    return TeacherSchedule(config)


def ends(progress, number):
    return [1 - progress, *[0.0] * (number - 2), progress]


def test_it_is_asked_for_the_progress_of_every_step():
    asked = []
    schedule(lambda progress, number: asked.append((progress, number)) or ends(progress, number))
    assert asked == [(0, 3), (0.25, 3), (0.5, 3), (0.75, 3), (1, 3)]


def test_the_weights_are_those_of_the_step():
    own = schedule(ends)
    for step in range(5):
        weights = own.weights(step, progress=0.3)
        np.testing.assert_allclose(weights, ends(step / 4, 3), rtol=1e-6)
        assert weights.dtype == np.float32


def test_there_is_a_slot_for_each_teacher_that_is_in_use_at_once():
    assert schedule(ends).slots() == 2
    assert schedule(lambda progress, number: [0.0, 1.0, 0.0]).slots() == 1
    assert schedule(lambda progress, number: [0.2, 0.5, 0.3]).slots() == 3
    one_by_one = lambda progress, number: np.eye(number)[int(progress * (number - 1))]  # noqa: E731
    assert schedule(one_by_one).slots() == 1


def test_upcoming_teachers_are_known():
    own = schedule(ends)
    assert own.upcoming_teachers(0, 1, lambda step: 0.0) == {0}
    assert own.upcoming_teachers(0, 3, lambda step: 0.0) == {0, 2}


@pytest.mark.parametrize(
    "gives",
    [None, 1.0, [1.0], [0.5, 0.4, 0.0], [1.5, -0.5, 0], [float("nan"), 1, 0], [1, 0, 0, 0], "abc"],
)
def test_what_are_no_weights_is_refused(gives):
    with pytest.raises(PluginError) as error:
        schedule(lambda progress, number: gives if progress > 0.5 else ends(progress, number))
    assert f"returned {gives!r} on progress 0.75: it needs 3 weights >= 0 that sum to 1" in str(
        error.value
    )


def test_what_raises_names_the_progress_and_the_line():
    with pytest.raises(PluginError, match=r"ZeroDivision.* on progress 0 \(test_user_schedule\.py"):
        schedule(lambda progress, number: 1 / progress)
