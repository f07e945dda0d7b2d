"""What values of a model's file may be: types, ranges, and how an error says it."""

import re

import pytest

from cotjax.errors import InputError
from cotjax.models.formats.kinds import (
    MOST_LAYERS,
    NUMBER,
    TEXTS,
    TRUTH,
    check_kind,
    is_number,
    is_whole,
    whole,
)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 0, 6])
def test_an_integer_of_a_range_is_no_truth_no_fraction_and_no_text(value):
    assert is_whole(1, 1, 5) and is_whole(5, 1, 5)
    assert not is_whole(value, 1, 5)


@pytest.mark.parametrize("value", [True, "1", float("nan"), float("inf"), 0, -1.0, 1e13, 1e-13])
def test_a_number_is_positive_and_float32_can_compute_with_it(value):
    assert is_number(1) and is_number(1e-5)
    assert not is_number(value)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (10**9, whole(MOST_LAYERS), "n = 1000000000; 10,000 at most is read."),
        (0, whole(MOST_LAYERS), "n = 0; a positive integer is needed."),
        (-1, whole(5, least=0), "n = -1; an integer from 0 on is needed."),
        ("2", NUMBER, "a positive number is needed."),
        (1, TRUTH, "n = 1; true or false is needed."),
        (["a", 1], TEXTS, "a list of texts is needed."),
    ],
)
def test_what_is_wrong_names_the_file_the_key_and_the_value(value, kind, words):
    with pytest.raises(InputError, match=f"^a file: n = .*{re.escape(words.split('; ')[-1])}$"):
        check_kind(value, kind, "n", "a file")


def test_what_holds_passes():
    for value, kind in ((3, whole(3)), (0, whole(3, least=0)), (0.5, NUMBER), (["a"], TEXTS)):
        check_kind(value, kind, "n", "a file")
