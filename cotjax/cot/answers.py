"""Finds the final answer of a solution and compares answers as numbers.

An answer is a canonical number string (`numbers.canonical_number`): `1,234.50` and `$1234.5`
are both `1234.5`, a third is `1/3`. Answers that are no numbers are None, never a string.
Every search is linear in the length of the text and nothing is evaluated.
"""

import re
from collections import deque
from fractions import Fraction

from cotjax.cot.numbers import (
    WINDOW,
    Hedged,
    canonical_number,
    read_last_number,
    read_number,
    read_phrase,
)
from cotjax.cot.thinking import spoken

TOLERANCE = 0.01
RELATIVE = 0.01  # of the gold's size, which the tolerance never exceeds
_LOOKBACK = 64  # markers tried, last first; a bound for texts made of markers only

_MARKER = re.compile(
    r"(?P<hash>####)|(?P<boxed>\\(?:boxed|fbox)(?![A-Za-z]))|(?P<tag>(?i:<answer(?:\s[^<>]{0,200})?>))"
    r"|(?i:\bfinal\s{1,4}answer[*_ \t]{0,8}(?:is\b|[:：=]|\r?\n))"
    r"|(?i:\banswer[*_ \t]{0,8}(?:is\b|[:：=]))|答案[ \t]{0,8}[是为:：]"
)
_GOLD = re.compile(r"####|(?i:\banswer[*_ \t]{0,8}[:：])")
_HEADING = re.compile(r"[0-9]{1,3}[.)][ \t]{1,8}\S")
_STEP = re.compile(r"(?i)step\s?[0-9]")


def extract_answer(text: str, *, flexible: bool = False, evaluate: bool = False) -> str | None:
    r"""Returns the final answer of a solution as a canonical number string, or None.

    What stands between reasoning tags never decides, and while such a tag is open there is no
    answer yet. Of the rest, the last marker that yields an answer does, whatever its form:

        #### 42      \boxed{42}      Final Answer: 42      Answer: 42
        the answer is 42.             <answer>42</answer>

    A marker that no number follows (`Final Answer: [number]`, a heading `#### 2. Add`) is passed
    over. One that is negated or hedged (`not 24`, `24 or 25`) decides that there is no answer.
    See `cotjax.cot.numbers` for how numbers may be written and which are refused.

    Args:
      text: any string.
      flexible: also accept a solution without any marker, by its last number.
      evaluate: whether `48/2` is 24; else it is an unfinished sum, and no answer.

    Example:
      >>> extract_answer("Step 1: 6 * 7 = 42\nAnswer: **42** apples.")
      '42'
      >>> extract_answer(r"so \boxed{\frac{3}{4}}"), extract_answer("#### -$1,234.50")
      ('0.75', '-1234.5')
      >>> extract_answer("<think>Answer: 24</think> Answer: - 7"), extract_answer("<think>#### 24")
      ('-7', None)
      >>> extract_answer("we get 42"), extract_answer("we get 42", flexible=True)
      (None, '42')
    """
    said = spoken(text)
    if said is None:
        return None
    for marker in reversed(deque(_MARKER.finditer(said), maxlen=_LOOKBACK)):
        value = _value_behind(marker, said[marker.end() : marker.end() + WINDOW], evaluate)
        if isinstance(value, Hedged):
            return None
        if value is not None:
            return canonical_number(value)
    value = read_last_number(said) if flexible else None
    return None if value is None else canonical_number(value)


def gold_answer(text: str) -> str | None:
    r"""Returns the answer of a reference, which is read from one place only.

    That is behind the last `####` or `Answer:` of a solution; a text without either is the answer
    itself. Where that place holds no number there is none, whatever else the text says.

    Example:
      >>> gold_answer("5 * 8 = 40 ... #### 1,040"), gold_answer("1,040"), gold_answer("Monday")
      ('1040', '1040', None)
      >>> gold_answer("at 3 o'clock #### 5:30"), gold_answer("#### 3\n#### five")
      (None, None)
    """
    marker = next(iter(deque(_GOLD.finditer(text), maxlen=1)), None)
    place = (
        text if marker is None else text[marker.end() :].lstrip(" \t\r\n*_:：").partition("\n")[0]
    )
    value = read_number(place, evaluate=True)
    return None if value is None else canonical_number(value)


def answers_equal(a: str | None, b: str | None, *, tolerance: float | None = None) -> bool:
    """Tells whether two answers are numbers that differ by less than a tolerance.

    The comparison is exact: 5.01 differs from 5 by 0.01, which is not less than 0.01. Anything
    that is no number, None included, equals nothing.

    Args:
      a: an answer.
      b: the gold answer.
      tolerance: the least difference that counts as wrong, in the answer's unit; None is 0.01, but
        at most 1 % of the gold's size, so that 0 does not answer 0.005.

    Example:
      >>> answers_equal("0.5", "1/2"), answers_equal("5.01", "5"), answers_equal(None, None)
      (True, False, False)
      >>> answers_equal("0", "0.005"), answers_equal("0.00501", "0.005")
      (False, True)

    Source: arXiv:2602.17686 (BRIDGE) for the tolerance of 0.01; the bound is this project's.
    """
    first, second = (
        None if answer is None else read_number(answer, evaluate=True) for answer in (a, b)
    )
    if first is None or second is None:
        return False
    if tolerance is not None:
        return abs(first - second) < Fraction(str(tolerance))
    allowed = min(Fraction(str(TOLERANCE)), Fraction(str(RELATIVE)) * abs(second))
    return first == second or abs(first - second) < allowed


def _value_behind(marker: re.Match[str], window: str, evaluate: bool) -> Fraction | Hedged | None:
    if marker["boxed"] and window.lstrip().startswith("{"):
        return read_phrase(_braced(window), evaluate=evaluate)
    if marker["tag"]:
        window = re.split(r"(?i)</answer", window, maxsplit=1)[0]
        inner = deque(_MARKER.finditer(window), maxlen=1)
        if inner:  # <answer>\\boxed{5}</answer>
            return None
    phrase = window.lstrip(" \t\r\n*_:：").partition("\n")[0]
    if _STEP.match(phrase) or (marker["hash"] and _HEADING.match(phrase)):
        return None
    return read_phrase(phrase, evaluate=evaluate)


def _braced(window: str) -> str:
    """Returns what stands between the first brace and its partner (or the end)."""
    depth = 0
    start = window.index("{") + 1
    for position in range(start - 1, len(window)):
        depth += (window[position] == "{") - (window[position] == "}")
        if depth == 0:
            return window[start:position]
    return window[start:]
