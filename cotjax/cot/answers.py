"""Finds the final answer of a solution and compares answers as numbers.

An answer is a canonical number string (`numbers.canonical_number`): `1,234.50` and `$1234.5`
are both `1234.5`, a third is `1/3`. Answers that are no numbers are None, never a string.
Every search is linear in the length of the text and nothing is evaluated.
"""

import re
from collections import deque
from fractions import Fraction

from cotjax.cot.numbers import WINDOW, canonical_number, read_last_number, read_number

_LOOKBACK = 16  # markers tried per form, last first; a bound for texts made of markers only

_HASH = re.compile(r"####")
_BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_FINAL = re.compile(r"(?i)\bfinal\s{1,4}answer[*_ \t]{0,8}(?:is\b|[:：=]|\r?\n)")
_ANSWER = re.compile(r"(?i)\banswer[*_ \t]{0,8}(?:is\b|[:：=])|答案[ \t]{0,8}[是为:：]")
_FORMS = (_HASH, _BOXED, _FINAL, _ANSWER)

_HEADING = re.compile(r"[0-9]{1,3}[.)][ \t]{1,8}\S")
_STEP = re.compile(r"(?i)step\s?[0-9]")


def extract_answer(text: str, *, flexible: bool = False) -> str | None:
    r"""Returns the final answer of a solution as a canonical number string, or None.

    The first form that yields a number decides; within a form, its last marker does:

      1. `#### 42`
      2. `\boxed{42}`
      3. `Final Answer: 42`, `the final answer is 42`
      4. `Answer: 42`, `The answer is 42.`
      5. the last number of the text, only if `flexible`

    A marker that no number follows (`Final Answer: [number]`, a heading `#### 2. Add`) is passed
    over. See `cotjax.cot.numbers` for how numbers may be written and which are refused.

    Args:
      text: any string.
      flexible: also accept a solution without any marker, by its last number.

    Example:
      >>> extract_answer("Step 1: 6 * 7 = 42\nAnswer: **42** apples.")
      '42'
      >>> extract_answer(r"so \boxed{\frac{3}{4}}"), extract_answer("#### -$1,234.50")
      ('0.75', '-1234.5')
      >>> extract_answer("we get 42"), extract_answer("we get 42", flexible=True)
      (None, '42')
    """
    for form in _FORMS:
        for marker in reversed(deque(form.finditer(text), maxlen=_LOOKBACK)):
            value = _value_behind(form, text[marker.end() : marker.end() + WINDOW])
            if value is not None:
                return canonical_number(value)
    value = read_last_number(text) if flexible else None
    return None if value is None else canonical_number(value)


def gold_answer(text: str) -> str | None:
    """Returns the answer of a reference: a solution with a marker, or a bare number.

    Example:
      >>> gold_answer("5 * 8 = 40 ... #### 1,040"), gold_answer("1,040"), gold_answer("Monday")
      ('1040', '1040', None)
    """
    answer = extract_answer(text)
    if answer is not None:
        return answer
    value = read_number(text)
    return None if value is None else canonical_number(value)


def answers_equal(a: str | None, b: str | None, *, tolerance: float = 0.01) -> bool:
    """Tells whether two answers are numbers that differ by less than `tolerance`.

    The comparison is exact: 5.01 differs from 5 by 0.01, which is not less than 0.01. Anything
    that is no number, None included, equals nothing.

    Example:
      >>> answers_equal("0.5", "1/2"), answers_equal("5.01", "5"), answers_equal(None, None)
      (True, False, False)

    Source: arXiv:2602.17686 (BRIDGE) for the tolerance of 0.01.
    """
    first, second = (None if answer is None else read_number(answer) for answer in (a, b))
    if first is None or second is None:
        return False
    return abs(first - second) < Fraction(str(tolerance))


def _value_behind(form: re.Pattern[str], window: str) -> Fraction | None:
    if form is _BOXED and window.lstrip().startswith("{"):
        return read_number(_braced(window))
    phrase = window.lstrip(" \t\r\n*_:：").partition("\n")[0]
    if _STEP.match(phrase) or (form is _HASH and _HEADING.match(phrase)):
        return None
    return read_number(phrase)


def _braced(window: str) -> str:
    """Returns what stands between the first brace and its partner (or the end)."""
    depth = 0
    start = window.index("{") + 1
    for position in range(start - 1, len(window)):
        depth += (window[position] == "{") - (window[position] == "}")
        if depth == 0:
            return window[start:position]
    return window[start:]
