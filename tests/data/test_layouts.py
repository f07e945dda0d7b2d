"""Every layout of a row gives the same record, and a row that cannot serve says why."""

import pytest

from cotjax.cot import answers_equal, gold_answer, parse_rationale
from cotjax.data.layouts import RecordReader
from cotjax.errors import InputError
from cotjax.interfaces import Record

READER = RecordReader(gold_answer, parse_rationale, answers_equal)
ROWS = [
    {"question": f"{i} and 1?", "answer": f"{i}+1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"}
    for i in range(6)
]
BRIDGE = {
    "input": "Question: How many?",
    "target": "Thinking…\nFirst, add.\n\nStep 1: Add \\[ 1+1 = 2 \\]\nStep 2: so 2\n\nAnswer: 2",
}
FAILURE = {
    "idx": 3,
    "question": "How many?",
    "gold_answer": "2",
    "teacher_cot": BRIDGE["target"],
    "response": "Step 1: 3\n\nFinal Answer: 3",
}


def record_of(row, **settings):
    reader = RecordReader(gold_answer, parse_rationale, answers_equal, **settings)
    return reader.record(row, "file:1")


@pytest.mark.parametrize("row", [BRIDGE, FAILURE], ids=["bridge", "failures"])
def test_rationales_become_thinking_steps_and_answer(row):
    assert record_of(row) == Record(
        "file:1", "How many?", "2", ("Add \\[ 1+1 = 2 \\]", "so 2"), 2, thinking="First, add."
    )


def test_calculator_marks_go_or_stay():
    assert record_of(ROWS[1]).steps == ("1+1 = 2",)
    assert record_of(ROWS[1], keep_calculator=True).steps == ("1+1 = <<1+1=2>>2",)


def test_a_teacher_that_is_wrong_is_refused_unless_told_otherwise():
    wrong = FAILURE | {"gold_answer": "3"}
    with pytest.raises(InputError, match="rationale's answer is 2, the gold answer 3"):
        record_of(wrong)
    assert record_of(wrong, filter_teacher=False).answer == "3"
    assert record_of(FAILURE | {"gold_answer": "2.00"}).answer == "2"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (BRIDGE | {"target": "no answer"}, 'file:1: "target" has no line "Answer: <number>"'),
        (FAILURE | {"gold_answer": "two"}, 'file:1: "gold_answer" = "two" is no number'),
        (FAILURE | {"teacher_cot": "Answer: 2"}, "file:1: the rationale has no steps"),
        (FAILURE | {"gold_answer": 2}, 'file:1: needs a text under "gold_answer"'),
    ],
)
def test_a_row_that_cannot_serve_says_why(row, complaint):
    with pytest.raises(InputError, match=complaint):
        record_of(row)


def test_a_layout_that_is_named_is_not_guessed():
    row = {"question": "2+2?", "answer": "4"}
    with pytest.raises(InputError, match='"answer" has no line "#### <number>"'):
        record_of(row)
    assert record_of(row, layout="gym") == Record("file:1", "2+2?", "4", (), 1)
    with pytest.raises(InputError, match='needs a text under "target"'):
        record_of(ROWS[0], layout="bridge")
