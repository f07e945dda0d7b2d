"""Options of multiple-choice rows, in every shape that data sets have."""

import pytest

from cotjax.data.choice_rows import read_choices
from cotjax.errors import InputError

SHOWN = ["A) Rome", "B) Paris", "C) Oslo"]
SHAPES = {
    "mmlu": ["Rome", "Paris", "Oslo"],
    "arc": {"text": ["Rome", "Paris", "Oslo"], "label": ["A", "B", "C"]},
    "arc with numbers": {"text": ["Rome", "Paris", "Oslo"], "label": ["1", "2", "3"]},
    "medqa": {"A": "Rome", "B": "Paris", "C": "Oslo", "D": None},
    "commonsense": [
        {"label": k, "text": t} for k, t in zip("ABC", ["Rome", "Paris", "Oslo"], strict=True)
    ],
    "aqua": ["A)Rome", "B)Paris", "C)Oslo"],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_shown_in_one_way(shape):
    label = "2" if shape == "arc with numbers" else "B"
    for answer in (label, "Paris", " paris "):
        assert read_choices(SHAPES[shape], answer, "f:1") == (SHOWN, "B")


@pytest.mark.parametrize("answer", ["B", "(B)", "b", "B.", "B)", 1, 1.0, "Paris"])
def test_an_answer_is_a_letter_a_number_from_0_or_a_text(answer):
    assert read_choices(SHAPES["mmlu"], answer, "f:1")[1] == "B"


@pytest.mark.parametrize(
    "answer", ["", "D", "1", 3, -1, 0.5, "Berlin", "A or B", "Ro", float("nan"), 10**400]
)
def test_an_answer_that_is_no_option_is_refused(answer):
    with pytest.raises(InputError, match=r'^f:1: "answer" = .* is none of the 3 options'):
        read_choices(SHAPES["mmlu"], answer, "f:1")


def test_a_letter_that_is_the_text_of_another_option_is_not_clear():
    with pytest.raises(InputError, match="is none of"):
        read_choices(["B", "A"], "A", "f:1")
    assert read_choices(["A", "B"], "A", "f:1")[1] == "A"
    assert read_choices(["7", "12"], "12", "f:1")[1] == "B"


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ([], "holds 0 options"),
        (["a"], "holds 1 options"),
        ([str(k) for k in range(11)], "holds 11 options"),
        (["a", "a"], "holds one option twice"),
        (["a", ""], "needs a text for each option"),
        (["a", None], "needs a text for each option"),
        (["a", ["b"]], "needs a text for each option"),
        ([{"label": "A"}, {"label": "B"}], "needs a text for each option"),
    ],
)
def test_options_that_cannot_serve_say_why(choices, complaint):
    with pytest.raises(InputError, match=complaint):
        read_choices(choices, "A", "f:1")
