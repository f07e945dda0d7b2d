"""Difficulty signals of hand-counted rationales."""

import pytest
from hypothesis import given

from cotjax.cot import Rationale, cot_difficulty, parse_rationale
from cotjax.errors import InputError
from tests.cot.samples import FUZZ, marked_text

TEXT = "<think>long 1 + 1 thoughts</think>\nStep 1: 6 * 7 = 42\nStep 2: done\nAnswer: 42"


def test_thinking_and_answer_do_not_count():
    assert cot_difficulty(TEXT) == 2.0
    assert cot_difficulty(TEXT, signal="cot_tokens") == 6.0
    assert cot_difficulty(TEXT, signal="cot_tokens", count_tokens=len) == 14.0
    assert cot_difficulty(TEXT, signal="cot_operations") == 1.0


@pytest.mark.parametrize(
    ("step", "operations"),
    [
        ("16 - 3 - 4 = <<16-3-4=9>>9", 2),
        ("5 + $3 = 8, 10% * 5, (2)/(3)", 3),
        ("5 apples × 2 ÷ 3 − 1", 3),
        ("\\frac{3}{4} \\times \\sqrt{5} \\div 2 \\cdot 3", 5),
        ("\\fraction \\timesx", 0),
        ("well-known and/or - bullet, -5, 3 - bullet", 0),
        ("2^10", 1),
        ("", 0),
    ],
)
def test_operations(step, operations):
    assert cot_difficulty(Rationale(steps=(step,)), signal="cot_operations") == operations


def test_an_empty_rationale_is_the_easiest():
    for signal in ("cot_steps", "cot_tokens", "cot_operations"):
        assert cot_difficulty("", signal=signal) == 0.0


def test_an_unknown_signal_is_named():
    with pytest.raises(InputError, match='signal = "loss"'):
        cot_difficulty("a", signal="loss")  # pyright: ignore[reportArgumentType]


@FUZZ
@given(marked_text)
def test_text_and_its_rationale_are_equally_hard(text):
    for signal in ("cot_steps", "cot_tokens", "cot_operations"):
        difficulty = cot_difficulty(text, signal=signal)
        assert difficulty == cot_difficulty(parse_rationale(text), signal=signal) >= 0
