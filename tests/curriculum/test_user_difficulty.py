"""A user's difficulty: of a record, or of all records with the student."""

import numpy as np
import pytest

from cotjax.config import Config
from cotjax.curriculum.difficulty import Difficulty
from cotjax.errors import PluginError
from cotjax.interfaces import Record
from tests.tiny import STUDENT

RECORDS = [Record(f"r/{i}", "?" * (4 - i), "7", (), 1) for i in range(4)]


def measured(function, params=None):
    config = Config.for_stage("grpo", name="r", curriculum={"buckets": 2, "difficulty": function})
    difficulty = Difficulty(config, None, STUDENT)  # pyright: ignore
    return difficulty(params, RECORDS)


def test_a_function_of_a_record():
    np.testing.assert_array_equal(measured(lambda record: len(record.question)), [4, 3, 2, 1])


def test_a_function_of_all_records_is_given_the_student_as_it_is_now():
    def difficulty(student, records):
        assert student.params == "now" and student.tokenizer is STUDENT.tokenizer
        return [int(record.id[2:]) for record in records]

    np.testing.assert_array_equal(measured(difficulty, params="now"), [0, 1, 2, 3])


def test_the_required_parameters_tell_them_apart():
    def difficulty(record, scale=2.0):
        return scale * len(record.question)

    np.testing.assert_array_equal(measured(difficulty), [8, 6, 4, 2])


@pytest.mark.parametrize("gives", [None, float("nan"), "hard", [1.0, 2.0]])
def test_a_difficulty_that_is_no_number_names_the_record(gives):
    with pytest.raises(PluginError, match="on r/2: it needs to give a finite number"):
        measured(lambda record: gives if record.id == "r/2" else 1.0)


@pytest.mark.parametrize("gives", [None, 1.0, [1.0] * 3, [[1.0]] * 4, [1, 2, 3, float("nan")], "x"])
def test_difficulties_that_are_not_one_for_each_record_are_refused(gives):
    with pytest.raises(PluginError, match="it needs to give 4 finite numbers, one for each record"):
        measured(lambda student, records: gives)


def test_what_raises_names_the_record():
    with pytest.raises(
        PluginError, match=r"ZeroDivisionError: division by zero on r/3 \(test_user"
    ):
        measured(lambda record: 1 / (int(record.id[2:]) - 3))
