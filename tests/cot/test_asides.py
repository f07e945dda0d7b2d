"""What a rationale says beside its steps, by hand and in the built-in deliberate rationales."""

import pytest
from hypothesis import given

from cotjax.cot import Rationale, cot_difficulty
from cotjax.cot.asides import without_asides
from tests.cot.samples import FUZZ, marked_text


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (["12-5=7.", "Check: 7+5=12."], ["12-5=7."]),
        (["7+5=12. Check: 12-5=7."], ["7+5=12."]),
        (["12-5=7.", "Let me double-check that: 7+5=12.", "Yes, correct."], ["12-5=7."]),
        (["12-5=7.", "Verification: 7+5=12"], ["12-5=7."]),
        (["9+3=13. Wait, no. 9+3=12."], ["9+3=12."]),
        (["9+3=13.", "Wait, no.", "9+3=12."], ["9+3=12."]),
        (["9+3=13.", "That's wrong. 9+3=12."], ["9+3=12."]),
        (["So far Mia has 12 pens.", "12*2=24"], ["12*2=24"]),
        (["12-3=9. What if it were 4? Then 12-4=8. But it is 3.", "9*2=18"], ["12-3=9.", "9*2=18"]),
        (["The question is how many pens Mia has now.", "12*2=24"], ["12*2=24"]),
        (["Hmm. Okay.", "Wait.", ""], []),
    ],
)
def test_what_adds_nothing_is_no_step(steps, left):
    assert without_asides(steps) == tuple(left)
    assert cot_difficulty(Rationale(steps=tuple(steps))) == len(left)


@pytest.mark.parametrize(
    "step",
    [
        "So far, he has sold 5*3=15.",
        "Wait, 3+4=7.",
        "Actually, 3 * 4 = 12",
        "Checks cost $5 each, so 3*5=15.",
        "Check out takes 5+6=11 minutes",
        "No one eats the rest, which is 3.",
        "Right triangles have a leg of 4.",
        "Then 12-4=8. But it is 3.",
        r"\[ 3 + \frac{1}{2}" "\n" r"= 3.5 \]",
        "Let x be the number of pens.",
    ],
)
def test_what_adds_something_stays_as_it_is(step):
    assert without_asides([step]) == (step,)


def test_verification_lines_make_a_problem_no_harder():
    plain = Rationale(steps=("7+5=12.", "12-3=9."))
    lines = ("7+5=12.", "Check: 12-5=7.", "So far Mia has 12.", "12-4=8.", "Wait, no.", "12-3=9.",
             "Let me verify: 9+3=12.")  # fmt: skip
    loud = Rationale(steps=lines)
    for signal in ("cot_steps", "cot_operations"):
        assert cot_difficulty(loud, signal=signal) == cot_difficulty(plain, signal=signal) == 2
    assert cot_difficulty(loud, signal="cot_tokens") > cot_difficulty(plain, signal="cot_tokens")


@FUZZ
@given(marked_text)
def test_nothing_is_invented_and_no_step_is_gained(text):
    lines = text.split("\n")
    left = without_asides(lines)
    assert len(left) <= len(lines)
    assert all(any(word in line for line in lines) for one in left for word in one.split())
    assert sum(len(one.split()) for one in left) <= len(text.split())
