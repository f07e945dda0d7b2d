"""Verifiers: the table, what is a gold answer to one, and that rewards follow it."""

import pytest

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
)

TEXTS = ["", "Step 1: 6 * 7\nAnswer: 42", "#### 1,040", "so 42", "Answer: Paris", r"\boxed{1/2}"]


class Word:
    """The word behind "Answer:"."""

    def extract(self, text):
        return text.rpartition("Answer:")[2].strip() or None if "Answer:" in text else None

    def equal(self, answer, gold):
        return answer == gold


@pytest.mark.parametrize("text", TEXTS)
def test_numeric_is_the_extractor_and_the_comparison_of_numbers(text):
    assert VERIFIERS["numeric"] is NUMERIC
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
