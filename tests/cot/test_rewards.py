"""The reward tables, row by row and on both sides of every edge, with hand-computed numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot import (
    completion_brevity,
    completion_reward,
    count_steps,
    is_correct,
    is_well_formed,
    outcome_reward,
    rewrite_brevity,
    rewrite_reward,
)
from cotjax.errors import InputError
from tests.cot.samples import FUZZ, HOSTILE, any_text, marked_text, megabyte


def completion(num_steps: int, num_words: int, answer: str = "42") -> str:
    """Returns a well-formed completion of that many steps and words."""
    steps = [f"Step {k}:a" for k in range(1, num_steps + 1)]
    steps[0] += " word" * (num_words - 2 * num_steps - 2)
    text = "\n".join([*steps, f"Answer: {answer}"])
    assert len(text.split()) == num_words
    return text


# n0 = 5, so L = 175 and 0.8 L = 140; the completion has 5 steps, so the step bonus is 0.
@pytest.mark.parametrize(
    ("words", "monotone", "released"),
    [
        (12, 0.128, 0.128),
        (139, 0.001, 0.001),
        (140, 0.0, 0.0),
        (141, -0.002, -0.002),
        (174, -0.068, -0.068),
        (175, -0.07, -0.07),
        (176, -0.08, -0.01),
        (177, -0.09, -0.02),
        (267, -0.99, -0.92),
        (268, -1.0, -0.93),
        (269, -1.0, -0.94),
        (274, -1.0, -0.99),
        (275, -1.0, -1.0),
        (276, -1.0, -1.0),
        (2000, -1.0, -1.0),
    ],
)
def test_brevity_of_a_completion(words, monotone, released):
    assert completion_brevity(words, 175) == pytest.approx(monotone, abs=1e-12)
    assert completion_brevity(words, 175, monotone=False) == pytest.approx(released, abs=1e-12)
    for flag, expected in ((True, monotone), (False, released)):
        reward, parts = completion_reward(
            completion(5, words), gold="42", teacher_steps=5, monotone=flag
        )
        assert reward == pytest.approx(1 + expected, abs=1e-12)
        assert parts["brevity"] == pytest.approx(expected, abs=1e-12)


def test_the_repaired_slope_is_the_default():
    text = completion(5, 176)
    assert completion_reward(text, gold="42", teacher_steps=5)[1]["brevity"] == pytest.approx(-0.08)
    assert completion_brevity(176, 175) == pytest.approx(-0.08)


# n0 = 20, so 0.8 L = 560: the bonus stops growing 200 words below it.
@pytest.mark.parametrize(("words", "bonus"), [(361, 0.199), (360, 0.2), (359, 0.2), (0, 0.2)])
def test_brevity_bonus_ends_at_a_fifth(words, bonus):
    assert completion_brevity(words, 700) == pytest.approx(bonus, abs=1e-12)


@pytest.mark.parametrize(
    ("num_steps", "bonus"),
    [(1, 0.9), (2, 0.9), (3, 0.6), (4, 0.3), (5, 0.0), (6, 0.0), (9, 0.0)],
)
def test_step_bonus(num_steps, bonus):
    # 140 words is 0.8 L for n0 = 5, where brevity is 0.
    reward, parts = completion_reward(completion(num_steps, 140), gold="42", teacher_steps=5)
    assert reward == pytest.approx(1 + bonus, abs=1e-12)
    assert (parts["steps"], parts["num_steps"]) == (pytest.approx(bonus), num_steps)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Step 1: 6 * 7\nAnswer: 43", -2),
        ("Step 1: 6 * 7 = 42", -2),
        ("", -2),
        ("Answer: 43", -2),
        ("Step 1: a\nAnswer: 42.01", -2),
        ("Step 1: a\nAnswer: 41.99", -2),
        ("Step 1: a\nAnswer: 42.0099", 1),
        ("Step 1: a\nAnswer: 41.9901", 1),
        ("6 * 7\nAnswer: 42", -1),
        ("Step 1: 6 * 7 = \\boxed{42}", -1),
        ("Step 1: 6 * 7. The answer is 42.", -1),
        ("Answer: 42\nStep 1: 6 * 7", -1),
        ("Step 1: a\nAnswer: 42\nStep 2: b", -1),
        ("<think>Step 1: a\nAnswer: 42</think>", -2),
        ("<think>Step 1: a\nAnswer: 42", -2),
        ("see Step 1: a\nAnswer: 42", -1),
        ("Step 1: 6 * 7\nAnswer: 42", 1),
        ("Step 1: 6 * 7 Answer: 42", 1),
        ("Step 1: 6 * 7\n#### 42", 1),
        ("Step 1: 6 * 7\nFinal Answer: $42.00", 1),
        ("<think>hm</think>\nStep 1: 6 * 7\nAnswer: 42", 1),
        ("1. 6 * 7\nAnswer: 42", 1),
        ("Step 1:\nAnswer: 42", -1),
        ("Step 1: ...\nStep 2: **\nAnswer: 42", -1),
    ],
)
def test_outcome(text, outcome):
    # At length 28 against L = 35 and at a ratio of 0.9 the other parts are 0.
    reward, parts = completion_reward(text, gold="42", teacher_steps=1, length=28)
    assert (reward, parts["outcome"]) == (outcome, outcome)
    reward, parts = rewrite_reward(text, gold="42", teacher_length=10, length=9)
    assert (reward, parts["outcome"]) == (outcome, outcome)
    assert is_correct(text, "42") == (outcome > -2) == bool(parts["correct"])
    assert is_well_formed(text) == bool(parts["well_formed"])
    assert count_steps(text) == parts["num_steps"]


@FUZZ
@given(st.integers(0, 400), st.integers(0, 30))
def test_brevity_never_pays_for_a_wrong_or_ill_formed_completion(length, teacher_steps):
    for text, expected in (("Step 1: a\nAnswer: 1", -2.0), ("Answer: 42", -1.0)):
        reward, parts = completion_reward(
            text, gold="42", teacher_steps=teacher_steps, length=length
        )
        assert (reward, parts["steps"], parts["brevity"]) == (expected, 0.0, 0.0)
        reward, parts = rewrite_reward(text, gold="42", teacher_length=100, length=length)
        assert (reward, parts["steps"], parts["brevity"]) == (expected, 0.0, 0.0)


@FUZZ
@given(st.integers(0, 3000), st.integers(0, 30))
def test_the_monotone_reward_never_rises_with_length(length, teacher_steps):
    budget = 35.0 * teacher_steps
    longer = completion_brevity(length + 1, budget)
    assert -1.0 <= longer <= completion_brevity(length, budget) <= 0.2
    # No jump anywhere: a word more costs at most 0.01.
    assert completion_brevity(length, budget) - longer <= 0.01 + 1e-12


@pytest.mark.parametrize(
    ("length", "brevity"),
    [
        (0, 0.8), (10, 0.8), (19, 0.8), (20, 0.8), (21, 0.79), (35, 0.65), (49, 0.51), (50, 0.5),
        (51, 0.5 * 29 / 30), (65, 0.25), (79, 0.5 / 30), (80, 0.0), (81, 0.0), (99, 0.0),
        (100, 0.0), (101, -0.005), (150, -0.25), (199, -0.495), (200, -0.5),
        (201, -0.5), (900, -0.5),
    ],
)  # fmt: skip
def test_brevity_of_a_rewrite(length, brevity):
    assert rewrite_brevity(length / 100) == pytest.approx(brevity, abs=1e-12)
    text = "Step 1: 6 * 7\nAnswer: 42"
    reward, parts = rewrite_reward(text, gold="42", teacher_length=100, length=length)
    assert reward == pytest.approx(1 + brevity, abs=1e-12)
    assert parts["ratio"] == length / 100


@FUZZ
@given(st.floats(0, 5))
def test_a_longer_rewrite_never_gains(ratio):
    assert -0.5 <= rewrite_brevity(ratio + 1e-3) <= rewrite_brevity(ratio) <= 0.8


def test_words_are_counted_unless_a_length_is_given():
    text = "Step 1: 6 * 7\nAnswer: 42"
    _, parts = completion_reward(text, gold="42", teacher_steps=1)
    assert parts["length"] == 7
    _, parts = completion_reward(text, gold="42", teacher_steps=1, unit="tokens", length=30)
    assert parts["length"] == 30
    # L = 20, 0.8 L = 16
    assert completion_reward(
        text, gold="42", teacher_steps=2, words_per_step=10.0, unit="tokens", length=18
    )[1]["brevity"] == pytest.approx(-0.004)
    _, parts = rewrite_reward(text, gold="42", teacher_length=14)
    assert parts["ratio"] == 0.5


def test_settings_may_be_fractions():
    text = "Step 1: a\nAnswer: 42"
    _, parts = completion_reward(text, gold="42", teacher_steps=20, words_per_step=0.5, length=10)
    assert parts["brevity"] == pytest.approx(-0.004)
    assert rewrite_reward(text, gold="42", teacher_length=0.5, length=1)[0] == 0.5


def test_a_teacher_without_steps_gives_no_budget():
    reward, parts = completion_reward("Step 1: a\nAnswer: 42", gold="42", teacher_steps=0)
    assert (parts["steps"], parts["brevity"]) == (0.0, pytest.approx(-0.05))
    assert reward == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_steps": -1}, "teacher_steps = -1"),
        ({"teacher_steps": 1, "words_per_step": 0.0}, "words_per_step = 0.0"),
        ({"teacher_steps": 1, "words_per_step": float("inf")}, "words_per_step = inf"),
        ({"teacher_steps": 1, "unit": "tokens"}, 'unit = "tokens": needs length'),
    ],
)
def test_bad_settings_of_a_completion(settings, message):
    with pytest.raises(InputError, match=message):
        completion_reward("", gold="42", **settings)


@pytest.mark.parametrize("teacher_length", [0, -1, float("nan"), float("inf")])
def test_bad_settings_of_a_rewrite(teacher_length):
    with pytest.raises(InputError, match="teacher_length = "):
        rewrite_reward("", gold="42", teacher_length=teacher_length)


def check_total(text: str, gold: str) -> None:
    """Asserts that both rewards exist and are the sum of their parts."""
    for reward, parts in (
        completion_reward(text, gold=gold, teacher_steps=3),
        rewrite_reward(text, gold=gold, teacher_length=50),
    ):
        assert -2.0 <= reward <= 2.1
        assert reward == parts["outcome"] + parts["steps"] + parts["brevity"]


@FUZZ
@given(st.one_of(any_text, marked_text), st.one_of(st.just("42"), any_text, marked_text))
def test_no_string_raises(text, gold):
    check_total(text, gold)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_hostile_string_raises(text):
    check_total(text, "42")
    check_total(f"Step 1: a\nAnswer: {text}", text)
    assert completion_reward("Step 1: a\nAnswer: 42", gold=text, teacher_steps=1)[0] == -2.0


@pytest.mark.parametrize("name", ["spaces", "steps", "hashes", "surrogates", "Answer:"])
def test_no_megabyte_raises(name):
    check_total(megabyte(name) + "\nAnswer: 42", "42")


@pytest.mark.parametrize("answer", ["42", "\\frac{x}{3}", "B", "(B)", "C.", "$x$", "-7"])
def test_a_line_of_hashes_with_a_number_a_formula_or_a_letter_is_an_answer_line(answer):
    assert is_well_formed(f"Step 1: 6 * 7\n#### {answer}")
    assert is_well_formed(f"Step 1: 6 * 7\n#### {answer}\nDone.")


@pytest.mark.parametrize("heading", ["", "A heading", "Because", "Step", "(a) first"])
def test_a_heading_is_no_answer_line(heading):
    assert not is_well_formed(f"Step 1: 6 * 7\n#### {heading}")


@pytest.mark.parametrize(
    ("text", "reward"),
    [("Step 1: 6 * 7\nAnswer: 42", 1), ("Answer: 42", -1), ("Step 1: a\nAnswer: 41", -2)],
)
def test_an_outcome_is_rewarded_whatever_the_length(text, reward):
    found = [outcome_reward(text, gold="42", length=length) for length in (None, 1, 4000)]
    assert [one for one, _ in found] == [reward] * 3
    assert [parts["length"] for _, parts in found] == [len(text.split()), 1, 4000]
    assert all(parts["steps"] == parts["brevity"] == 0 for _, parts in found)
