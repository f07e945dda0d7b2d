"""Equations in a text: which are found, which are true, and what is left alone."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.cot.equations import Equation, equations
from tests.cot.samples import FUZZ, HOSTILE, any_text, marked_text


def judged(text):
    return [one.holds for one in equations(text)]


@pytest.mark.parametrize(
    "text",
    [
        *("7+5=12", "7 + 5 = 12", "3 x 4 = 12", "3x4=12", "3×4=12", "12÷3=4", "3*4=12=2*6"),
        *("12=3*4", "-3 + 5 = 2", "9-(-3)=12", "(3+4)*2=14", "(7 + 5 = 12)", "2^3 = 8", "2**3=8"),
        *(
            "2^3 = 16/2",
            "2^-1*4=2",
            "0.5*4=2",
            "1 1/2 + 1 = 2 1/2",
            "1,200 * 3 = 3,600",
            "$3 + $5 = $8",
        ),
        *("7 pens + 5 pens = 12 pens", "5 apples * 2 = 10 apples", "so 12 - 3 = 9"),
        *("10% * 50 = 5", "5/20 * 100 = 25%", "5/20 = 25%", "50%+25%=75%", "12 minus 3 = 9"),
        *("12 divided by 3 = 4", "3 times 4 = 12", "3 plus 4 = 7", "**7 + 5 = 12**"),
        *(r"\[ 6 \times 7 = 42 \]", r"\frac{3}{4} \div \frac{1}{4} = 3", r"$6 \cdot 7 = 42$"),
        *("- 7 + 5 = 12", "1. 7 + 5 = 12", "2 * (3 + 4) = 14 apples and 3 pears"),
    ],
)
def test_a_true_equation_holds_however_it_is_written(text):
    assert judged(text) == [True]


@pytest.mark.parametrize(
    "text",
    [
        *("7+5=13", "12/3=5", "3*4=12=2*7", "3*4=13=2*6", "7+5=12.5", "7 pens + 5 pens = 13 pens"),
        *("$3 + $5 = $9", "12 minus 3 = 8", "7+5=13 - so she has 13", "(7+5=13)", "3 x 4 = 13"),
        *("10% * 50 = 6", r"\frac{1}{2} + \frac{1}{3} = \frac{2}{5}"),
    ],
)
def test_a_false_equation_does_not_hold(text):
    assert judged(text) == [False]


@pytest.mark.parametrize(
    "text",
    [
        *("", "12 pens", "5 = 6", "x + 2 = 5", "3y + 4 = 10", "2x + 3 = 7", "y = 3 + 4 + z"),
        *("half of 12 + 3 = 9", "5 more than 3 + 4 = 12", "1/3 of 12 = 4", "1 hour = 60 minutes"),
        *("60 miles/hour * 2 hours = 120 miles", "sqrt(16) + 1 = 5", "√16 + 2 = 6", "f(3+1) = 9"),
        *("3*5! = 360", "5 * 2 = 10 m", "1+2+...+10=55", "3:30 + 2 = 5:30", "7/0=3", "0^-1=1"),
        *("2^(1/2)=1", "2^9999=0", "7+5=\n13", "7+=12", "7+(5=12", "9" * 101 + "+1=2"),
    ],
)
def test_what_is_more_than_arithmetic_is_not_judged(text):
    assert judged(text) == []


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        *(("10/3=3.33", True), ("20/3=6.66", True), ("20/3=6.67", True), ("10/3=3.34", False)),
        *(("10/3=3", False), ("10/3 ≈ 3", True), (r"10/3 \approx 4", False), ("2/3 ≈ 1", True)),
        *(("0-2/3=-0.66", True), ("0-2/3=-0.67", True), ("0-2/3=-0.65", False)),
    ],
)
def test_a_number_with_decimals_may_be_rounded_or_cut_off(text, holds):
    assert judged(text) == [holds]


def test_all_equations_of_a_text_are_found_in_order():
    text = "Mia has 7 pens and buys 5 more. 7+5=12. Check: 12-5=6.\nWhat if? Then 12-4=8. No."
    assert equations(text) == (
        Equation("7+5=12", True, Fraction(12)), Equation("12-5=6", False, Fraction(6)),
        Equation("12-4=8", True, Fraction(8)),
    )  # fmt: skip
    assert judged("7+5=13, 13+5=18 18-5=13; 13+7=20.") == [False, True, True, True]
    assert judged("16 - 3 - 4 = <<16-3-4=8>>9 ducks") == [False, True]


numbers = st.integers(0, 999)


@FUZZ
@given(numbers, st.sampled_from("+-*/"), numbers, st.integers(-2, 2))
def test_two_numbers_and_a_sign_are_judged_as_fractions_compute_them(one, sign, two, slip):
    if sign == "/" and not two:
        return
    exact = {"+": one + two, "-": one - two, "*": one * two}.get(sign)
    exact = Fraction(one, two) if exact is None else exact
    if exact.denominator == 1:
        assert judged(f"{one}{sign}{two}={int(exact) + slip}") == [slip == 0]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_raises_nothing(text):
    equations(text)
    equations(f"1 + {text} = {text}")


@FUZZ
@given(st.one_of(any_text, marked_text))
def test_any_text_is_read(text):
    assert all(isinstance(one.holds, bool) for one in equations(text))


@pytest.mark.parametrize("piece", ["1+", "(", "1 ", "=", "1=", "2^", "-", "7 a ", "\\frac{1}{"])
def test_long_text_takes_no_longer_than_its_length_asks_for(piece):
    began = time.perf_counter()
    equations(piece * 5000)
    assert time.perf_counter() - began < 2


def test_a_difference_of_a_bold_number_is_no_power():
    assert [one.holds for one in equations("**15**-10=5 and 2**3 = 8")] == [True, True]
