"""The order of a distillation run: which bucket a step draws from, and which teachers meet it."""

import json
import math

import numpy as np
import pytest

from cotjax.config import load
from cotjax.curriculum.curriculum import Curriculum
from cotjax.interfaces import Record

RECORDS = [Record(f"r/{i}", f"{i}?", "1", ("a",), i) for i in range(12)]


def encode(index):
    size = 2 + index % 3
    arrays = {"tokens": index + 1, "targets": index + 1, "weight": 1.0}
    return {name: np.full(size, value) for name, value in arrays.items()}


class Measured:
    """Difficulty by a record's own number; counts who was asked."""

    def __init__(self, sign=1):
        self.sign, self.asked = sign, []

    def __call__(self, params, records):
        self.asked.append(([record.difficulty for record in records], params))
        return np.array([self.sign * record.difficulty for record in records], float)


def make(*flags, measure=None, steps=12, prepared=True):
    common = "--stage=distill", "--name=x", f"--steps={steps}", "--curriculum.buckets=3"
    sizes = "--batch.size=2", "--batch.sequence-length=8", "--teachers.paths", "weak", "strong"
    config = load([*common, *sizes, *flags])
    curriculum = Curriculum(config, RECORDS, encode, measure or Measured())
    if prepared:
        curriculum.prepare("params", 0)
    return curriculum


def test_examples_are_sorted_once_before_the_first_step():
    measure = Measured()
    curriculum = make(measure=measure)
    for step in range(12):
        curriculum.prepare("later", step)
    assert measure.asked == [([*range(12)], "params")]
    np.testing.assert_array_equal(curriculum.bucket, np.arange(12) // 4)


def test_rows_before_sorting_are_a_mistake():
    with pytest.raises(AssertionError, match="prepare"):
        make(prepared=False).rows  # noqa: B018


def test_steps_are_shared_out_and_each_draws_from_its_bucket_alone():
    curriculum = make()
    assert [curriculum.bucket_at(step) for step in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
    for step in range(12):
        batch, spans = curriculum.next_rows(step)
        drawn = {span.example for span in spans}
        assert drawn <= set(np.flatnonzero(curriculum.bucket == step // 4))
        assert set(batch.tokens[batch.segment > 0].tolist()) == {index + 1 for index in drawn}


def test_progress_is_the_share_of_buckets_done_at_the_end_of_a_bucket():
    curriculum = make()
    assert [curriculum.progress(step) for step in (0, 3, 4, 8)] == [1 / 3, 1 / 3, 2 / 3, 1]


def test_taken_examples_are_of_the_step_s_bucket_each_once_a_pass():
    curriculum = make()
    assert sorted(curriculum.take(4, 4)) == [4, 5, 6, 7]


# Measured again.


def test_at_the_start_of_a_bucket_what_is_still_to_come_is_sorted_again():
    measure = Measured()
    curriculum = make(
        "--curriculum.rescore", "--curriculum.difficulty=student_loss", measure=measure
    )
    measure.sign = -1  # now the last ones are easy
    for step in range(12):
        curriculum.prepare(step, step)
    assert [asked for asked, _ in measure.asked] == [[*range(12)], [*range(4, 12)], [*range(4, 8)]]
    assert [params for _, params in measure.asked] == ["params", 4, 8]
    np.testing.assert_array_equal(curriculum.bucket, [0] * 4 + [2] * 4 + [1] * 4)


def test_from_hard_to_easy_the_easier_ones_are_sorted_again():
    measure = Measured()
    curriculum = make(
        "--curriculum.rescore",
        "--curriculum.difficulty=student_loss",
        "--curriculum.direction=hard_first",
        measure=measure,
    )
    measure.sign = -1
    curriculum.prepare("params", 4)
    np.testing.assert_array_equal(curriculum.bucket, [1] * 4 + [0] * 4 + [2] * 4)


def test_sorting_again_loses_no_place():
    measure = Measured()
    curriculum = make(
        "--curriculum.rescore", "--curriculum.difficulty=student_loss", measure=measure
    )
    curriculum.next_rows(0)
    before = curriculum.rows.get_state()
    measure.sign = -1
    curriculum.prepare("params", 4)
    assert curriculum.rows.get_state() == before


# Teachers.


def test_pairs_are_the_buckets_and_teachers_that_can_meet():
    assert make().pairs() == {(0, 0), (1, 1), (2, 1)}
    assert make("--curriculum.pacing=cumulative").pairs() == {(0, 0), (0, 1), (1, 1), (2, 1)}
    assert make("--curriculum.replay=0.5").pairs() == {(0, 0), (0, 1), (1, 1), (2, 1)}
    every = {(bucket, teacher) for bucket in range(3) for teacher in range(2)}
    assert make("--curriculum.schedule=adaptive").pairs() == every


def test_weights_follow_the_bucket_of_a_step():
    curriculum = make()
    weights = [curriculum.teacher_weights(step).tolist() for step in (0, 3, 4, 11)]
    assert weights == [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert curriculum.upcoming_teachers(0, 4) == {0} and curriculum.upcoming_teachers(0, 5) == {
        0,
        1,
    }


# The state.


@pytest.mark.parametrize("stop", [0, 3, 5, 9])
def test_a_curriculum_goes_on_where_another_stood(stop):
    flags = "--curriculum.replay=0.3", "--curriculum.schedule=adaptive"
    whole, again = make(*flags), make(*flags, prepared=False)
    for step in range(stop):
        whole.next_rows(step)
    state = json.loads(json.dumps(whole.get_state()))
    again.set_state(state)
    assert again.schedule.handover == whole.schedule.handover
    for step in range(stop, 12):
        assert again.next_rows(step)[1] == whole.next_rows(step)[1]


def test_a_loss_that_was_never_measured_survives_json():
    curriculum = make("--curriculum.schedule=adaptive")
    assert math.isinf(curriculum.schedule.handover.best)
    state = json.loads(json.dumps(curriculum.get_state(), allow_nan=False))
    other = make("--curriculum.schedule=adaptive")
    other.set_state(state)
    assert math.isinf(other.schedule.handover.best)
