"""What happened, in sentences: of a run that ended, one that goes on, and one that says little."""

import dataclasses

import pytest

from cotjax.report.run_folder import RunFiles, read_run
from cotjax.report.words import before_and_after, changed, what_happened
from tests.report.pages import completion, json_lines


@pytest.fixture
def run(folder):
    return read_run(folder)


def result(before, after):
    return {"before": before, "after": after, "seconds": 60.0}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ((0.5, 100), (0.6, 50), "rose from 50.0% to 60.0%, and answers are 50% shorter (100\xa0"),
        ((0.5, 100), (0.4, 150), "fell from 50.0% to 40.0%, and answers are 50% longer (100\xa0"),
        ((0.5, 100), (0.5, 100), "stayed at 50.0%, and answers are as long as before (100"),
        ((0.5, 0), (0.6, 50), "Held-out accuracy rose from 50.0% to 60.0%."),
    ],
)  # fmt: skip
def test_what_changed(run, before, after, says):
    numbers = [dict(zip(("accuracy", "tokens"), one, strict=True)) for one in (before, after)]
    told = list(what_happened(dataclasses.replace(run, result=result(*numbers))))
    assert says in told[1]


def test_questions_are_gained_and_lost_by_more_than_chance_or_not(folder):
    def rows(rights):
        return [
            completion(kind, f"q{n}", parts={"correct": right})
            for n, pair in enumerate(rights)
            for kind, right in zip(("before", "after"), pair, strict=True)
        ]

    for rights, says in (
        (
            [(0.0, 1.0)] * 8,
            "8 of 8 questions turned right and 0 turned wrong, which is more than chance",
        ),
        (
            [(0.0, 1.0)] * 2,
            "2 of 2 questions turned right and 0 turned wrong, which chance alone could",
        ),
        ([(1.0, 1.0)] * 2, "The same questions are right as before."),
        ([(0.0, 0.0)] * 2, "None of 2 questions is right, before or after."),
    ):
        json_lines(folder / "completions.jsonl", rows(rights))
        assert any(one.startswith(says) for one in what_happened(read_run(folder)))


def test_a_run_that_goes_on_says_where_it_stands(run):
    told = list(what_happened(dataclasses.replace(run, result={})))
    assert told[0] == "This run has trained the built-in student with grpo for 20 steps."
    assert told[1].startswith("At step 20 it answers 70.0% of the held-out questions right, in 90")


def test_a_run_that_has_only_its_first_evaluation_says_that_it_was_before(run):
    first = [line for line in run.metrics if line["kind"] == "train" or line["step"] == 0]
    told = list(what_happened(dataclasses.replace(run, result={}, metrics=first)))
    assert told[1].startswith("Before training it answered ") and "step 0" not in told[1]


def test_a_run_without_a_step_begins(run):
    told = list(what_happened(dataclasses.replace(run, result={}, metrics=[])))
    assert told[0] == "This run begins to train the built-in student with grpo, for 20 steps."


def test_whose_student_it_was_is_told(run):
    for model, says in (
        (
            {"path": "tiny", "init": "random"},
            "the built-in student from random weights",
        ),
        ({"path": "runs/a"}, "trained the student runs/a with grpo"),
        ({}, "trained a student with grpo"),
    ):
        told = next(what_happened(dataclasses.replace(run, config=run.config | {"model": model})))
        assert says in told


def test_alarms_are_named_once(run):
    rows = [{"step": 1, "kind": "alarm", "name": name, "says": "x"} for name in "abcdea"]
    told = list(what_happened(dataclasses.replace(run, alarms=rows)))
    assert told[-1] == "Worth a look: a, b, c, d and others."


def test_a_run_that_says_nothing_has_a_sentence():
    empty = RunFiles("x", "", {}, [], [], {}, [], [])
    assert list(what_happened(empty)) == ["This run has trained a student for 0 steps."]


def test_other_questions_at_the_end_are_not_paired(folder):
    json_lines(folder / "completions.jsonl", [completion("before", "a"), completion("after", "b")])
    assert before_and_after(read_run(folder)) is None
    json_lines(folder / "completions.jsonl", [completion("before", "a")])
    assert before_and_after(read_run(folder)) is None


def test_what_changed_is_one_sentence():
    before, after = {"accuracy": 0.5, "tokens": 100.0}, {"accuracy": 0.75, "tokens": 80.0}
    assert changed(before, after) == (
        "Held-out accuracy rose from 50.0% to 75.0%, and answers are 20% shorter (100\xa0→\xa080 "
        "tokens)."
    )
    assert changed(before, before | {"tokens": 100.1}) == (
        "Held-out accuracy stayed at 50.0%, and answers are as long as before (100\xa0→\xa0100 "
        "tokens)."
    )
    assert (
        changed({"accuracy": 0.5}, {"accuracy": 0.25})
        == "Held-out accuracy fell from 50.0% to 25.0%."
    )
