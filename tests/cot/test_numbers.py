"""Numbers as people and models write them, exactly; what is none is refused, not guessed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot.numbers import MAX_DIGITS, canonical_number, read_last_number, read_number

fractions = st.fractions(max_denominator=10**6)


@given(fractions)
def test_a_canonical_number_is_exact_and_written_in_one_way(value):
    text = canonical_number(value)
    over, _, under = text.partition("/")
    assert Fraction(over) / Fraction(under or 1) == value
    assert text == text.strip() and not set(text) & set(",+eE ")
    assert "." not in text or not text.endswith(("0", "."))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(-2469, 2), "-1234.5"),
        (Fraction(2, 6), "1/3"),
        (Fraction(-7, 3), "-7/3"),
        (Fraction(0), "0"),
        (Fraction(1, 8), "0.125"),
        (Fraction(10**20), "1" + "0" * 20),
    ],
)
def test_examples_of_canonical_numbers(value, text):
    assert canonical_number(value) == text


@given(
    fractions.filter(lambda value: max(map(len, canonical_number(value).split("/"))) < MAX_DIGITS)
)
def test_what_is_written_canonically_is_read_back(value):
    text = canonical_number(value)
    assert read_number(text) == read_last_number(f"5 apples, then {text}") == value


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1/0", "", "no digits", "9" * 101])
def test_what_is_no_number_is_none(text):
    assert read_number(text) is None and read_last_number(text) is None


@pytest.mark.parametrize("text", ["10-15", "3:30", "3 + 4", "3,50"])
def test_what_could_mean_several_numbers_is_refused(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("7 (as 2 + 5 = 7)", 7, 7),
        ("3 + 4 = 7 apples of 9", 7, 9),
        ("50% of 20", 50, 20),
    ],
)
def test_the_first_number_of_a_phrase_and_the_last_of_a_text(text, first, last):
    assert (read_number(text), read_last_number(text)) == (first, last)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-(1/2)", "-1/2"),
        ("-(-5)", "5"),
        ("-( 5 km)", "-5"),
        ("minus (5)", "-5"),
        ("-($5)", "-5"),
        (r"x = -\left(\frac{1}{2}\right)", "-1/2"),
        (r"-\left(-5\right)", "5"),
    ],
)
def test_a_sign_before_brackets_belongs_to_the_number_in_them(text, value):
    assert read_number(text) == Fraction(value)


@pytest.mark.parametrize("text", ["3-(-5)", "3 - (-5)", "-(2+3)", "10-(3)"])
def test_a_difference_with_brackets_is_refused(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("5(3)", "5(-3)", "2**3", "5 ** 6", "1e9999999999", "1e-9999999999", "1e3.5", "1.e5"),
        *("0.(3)", "0.3\u0305", r"0.\overline{3}", r"0.\bar{3}", r"0.\dot{3}"),
    ],
)
def test_of_what_goes_on_the_first_digits_are_no_number(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10**3", 1000),
        ("5 * 10**3", 5000),
        ("**5** apples", 5),
        ("5 hundred thousand", 500_000),
        ("1.5 hundred million dollars", 150_000_000),
    ],
)
def test_powers_of_ten_and_scales_of_two_words_are_exact(text, value):
    assert read_number(text) == value
