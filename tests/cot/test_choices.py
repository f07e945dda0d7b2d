"""Letters of multiple-choice answers: read in every usual spelling, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot.choices import LETTERS, read_choice
from cotjax.cot.numbers import Hedged
from tests.cot.samples import FUZZ, any_text

FORMS = [
    "{}", "({})", "[{}]", "{}.", "{})", "{}:", "**{}**", "$\\text{{({})}}$", "\\boxed{{{}}}",
    "option {}", "The correct answer is {}", "choice ({}) Paris", "{}. Paris", "Paris ({})",
    "{}, because", "({}) 42", '"{}"', " = {}", "\\mathrm{{{}}}.", "{}\nso",
]  # fmt: skip


@FUZZ
@given(st.sampled_from(LETTERS), st.sampled_from(FORMS))
def test_a_letter_in_any_spelling_reads_back(letter, form):
    assert read_choice(form.format(letter)) == letter


@pytest.mark.parametrize("phrase", ["(b)", "b", "b)", "b. Paris", "B Paris", "B because"])
def test_small_letters_and_a_text_behind_it(phrase):
    assert read_choice(phrase) == "B"


@pytest.mark.parametrize(
    "phrase", ["", "A dog", "I think so", "Because", "K", "Paris", "42", "b Paris", "AB", "ACE"]
)
def test_what_is_no_letter_is_refused(phrase):
    assert read_choice(phrase) is None


@pytest.mark.parametrize(
    "phrase",
    ["B or C", "A, B", "A and B", "not B", "(A) or (B)", "A/B", "B; C", "either A", "None of these",
     "Paris (A) or Rome (B)"],
)  # fmt: skip
def test_what_commits_to_no_letter_is_hedged(phrase):
    assert isinstance(read_choice(phrase), Hedged)


@FUZZ
@given(any_text)
def test_no_text_crashes(text):
    found = read_choice(text)
    assert found is None or isinstance(found, Hedged) or found in LETTERS
