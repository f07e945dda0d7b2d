"""Verifiers: the table, what is a gold answer to one, and that rewards follow it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot import (
    NUMERIC,
    VERIFIERS,
    answers_equal,
    completion_reward,
    extract_answer,
    gold_answer,
    gold_of,
    is_correct,
    is_right,
    read_completion,
    rewrite_reward,
    verifiers,
)
from cotjax.cot.math_process import MathProcess
from tests.cot.samples import FUZZ, any_text, marked_text, megabyte

TEXTS = ["", "Step 1: 6 * 7\nAnswer: 42", "#### 1,040", "so 42", "Answer: Paris", r"\boxed{1/2}"]


class Word:
    """The word behind "Answer:"."""

    def extract(self, text):
        return text.rpartition("Answer:")[2].strip() or None if "Answer:" in text else None

    def equal(self, answer, gold):
        return answer == gold


@pytest.mark.parametrize("text", TEXTS)
def test_numeric_is_the_extractor_and_the_comparison_of_numbers(text):
    assert VERIFIERS["numeric"]() == NUMERIC
    assert NUMERIC.extract(text) == extract_answer(text)
    assert gold_of(NUMERIC, text) == gold_answer(text)
    for gold in ("42", "1040", "0.5"):
        expected = answers_equal(extract_answer(text), gold)
        assert is_correct(text, gold) == expected == read_completion(text, gold).correct


def test_no_answer_is_not_right_and_not_compared():
    class Never(Word):
        def equal(self, answer, gold):
            raise AssertionError

    assert not is_right(Never(), None, "42")
    assert not read_completion("nothing", "42", verifier=Never()).correct


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Paris", "Paris"),
        ("It is in France.\n#### Paris \nindeed", "Paris"),
        ("Step 1: France\nAnswer: Paris", "Paris"),
        ("Step 1: France\nso Paris", None),
        ("####", None),
        ("  ", None),
    ],
)
def test_a_gold_that_is_no_number(text, gold):
    assert gold_of(Word(), text) == gold


def test_rewards_take_the_verdict_of_another_verifier():
    text = "Step 1: France\nAnswer: Paris"
    verdict = read_completion(text, "Paris", verifier=Word())
    assert verdict.answer == "Paris" and verdict.correct and verdict.well_formed
    known = completion_reward(text, gold="Paris", teacher_steps=1, verdict=verdict)
    assert known[1]["correct"] == 1 and known[0] >= 1
    assert completion_reward(text, gold="Paris", teacher_steps=1)[0] == -2
    assert rewrite_reward(text, gold="Paris", teacher_length=8, verdict=verdict)[1]["correct"] == 1


@pytest.mark.parametrize("text", TEXTS)
def test_the_verdict_of_numbers_is_what_rewards_read_themselves(text):
    verdict = read_completion(text, "42")
    known = completion_reward(text, gold="42", teacher_steps=2, verdict=verdict)
    assert known == completion_reward(text, gold="42", teacher_steps=2)


ANSWERS = {
    "math": [(r"$\frac{x}{3}$.", r"\frac{x}{3}"), (r"\boxed{\{1,2\}}", r"\{1,2\}"),
             ("not 24", None),
             (r"\[ x^2 \]", "x^2"), ("$x=5$. I hope it is correct.", "x=5"), ("**5**", "5"),
             ("$5$ apples", "5"), ("$3$ and $4$", "3 and 4"), ("isn't 3", None), ("—", None),
             (r"5 \text{ cm}.", r"5 \text{ cm}"), (r"$(1, 2] \cup [3,4)$", r"(1, 2] \cup [3,4)")],
    "choice": [("(b) Paris", "B"), ("B or C", None), ("Paris", None), ("\\boxed{D}", "D")],
    "exact": [("**Paris**.", "Paris"), ("'The Hague'", "The Hague"), ("", None)],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_each_reads_what_stands_behind_the_last_marker(name):
    verifier = VERIFIERS[name]()
    for written, answer in ANSWERS[name]:
        assert verifier.extract(f"Step 1: a\nAnswer: {written}") == answer
        assert verifier.extract(f"<think>Answer: {written}</think>") is None
        assert verifier.extract(f"<answer>{written}</answer>") == answer


def test_texts_that_are_the_same_but_for_case_and_marks_are_exact():
    exact = VERIFIERS["exact"]()
    for written in ("paris", "PARIS", " Paris. ", "**paris**", r"\text{Paris}", '"Paris"'):
        assert exact.equal(written, "Paris")
    assert not exact.equal("Pari", "Paris")


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("live", "evil", False),
        ("Even.", "even", True),
        (r"\frac12", "0.5", True),
        ("1,000", "1000", True),
        ("0.333", "1/3", False),
        ("x/3", r"\frac{x}{3}", True),
        (r"\text{Monday}", "Monday", True),
    ],
)
def test_math_compares_words_as_words_and_the_rest_by_value(answer, gold, same):
    pytest.importorskip("math_verify", reason="the extra [math] names it")
    assert VERIFIERS["math"]().equal(answer, gold) is same


def test_a_comparison_that_takes_too_long_counts_as_different_and_is_said_once(monkeypatch, capsys):
    pytest.importorskip("math_verify", reason="the extra [math] names it")
    process = MathProcess(limit=0.5)
    monkeypatch.setattr(verifiers, "PROCESS", process)
    monkeypatch.setattr(verifiers, "_same_expression", verifiers._same_expression.__wrapped__)
    for answer in ("3", "5"):
        began = time.monotonic()
        assert VERIFIERS["math"]().equal(answer, "2^{2^{2^{2^{2^2}}}}") is False
        assert time.monotonic() - began < 20
    process.close()
    assert capsys.readouterr().err.count("took longer than 0.5 s") == 1


@pytest.mark.parametrize(
    ("name", "text", "place", "gold"),
    [
        ("numeric", "We get 5", "answer", "5"),
        ("numeric", "We get 5", "line", None),
        ("numeric", "We get 5\nor 6", "answer", None),
        ("numeric", r"so \boxed{5}.", "line", None),
        ("numeric", r"so \boxed{5}.", "solution", "5"),
        ("numeric", "so 4\n#### 5:30", "solution", None),
        ("math", r"so $\boxed{\frac{x}{3}}$.", "solution", r"\frac{x}{3}"),
        ("math", "(1, 2)", "answer", "(1, 2)"),
        ("choice", "It is old.\n#### (b)", "line", "B"),
        ("choice", "Paris", "answer", None),
        ("exact", "It is old.\n#### Paris", "line", "Paris"),
        ("exact", "It is old.\nParis", "answer", None),
        ("exact", "####", "answer", None),
    ],
)
def test_a_gold_is_read_from_its_place_alone(name, text, place, gold):
    assert gold_of(VERIFIERS[name](), text, place) == gold


def test_a_tolerance_is_the_numeric_ones():
    assert VERIFIERS["numeric"]().equal("5.005", "5") and not NUMERIC.equal("5.02", "5")
    assert verifiers.Numeric(tolerance=0.1).equal("5.02", "5")


@pytest.mark.parametrize("name", ["math", "choice", "exact"])
@pytest.mark.parametrize(
    "unit", ["answers", "calculators", "boxed", "dollars", "Answer:", "braces"]
)
def test_no_text_makes_one_slower_than_linear(name, unit):
    verifier, text, began = VERIFIERS[name](), megabyte(unit), time.process_time()
    for whole in (text, f"{text}\nAnswer: 42", f"Answer: {text}"):
        verifier.extract(whole)
        gold_of(verifier, whole, "solution")
    assert time.process_time() - began < 5


@FUZZ
@given(st.sampled_from(sorted(VERIFIERS)), st.one_of(any_text, marked_text))
def test_no_text_crashes_one(name, text):
    verifier = VERIFIERS[name]()
    assert isinstance(verifier.extract(text), str | None)
    for place in ("answer", "line", "solution"):
        assert isinstance(gold_of(verifier, text, place), str | None)
