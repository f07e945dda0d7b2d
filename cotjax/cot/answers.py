"""Finds the final answer of a solution and compares answers as numbers.

An answer is a canonical number string (`numbers.canonical_number`): `1,234.50` and `$1234.5`
are both `1234.5`, a third is `1/3`. Answers that are no numbers are None, never a string.
Every search is linear in the length of the text and nothing is evaluated.
"""

import functools
import re
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar

from cotjax.cot.numbers import (
    HEDGED,
    WINDOW,
    Hedged,
    canonical_number,
    read_last_number,
    read_number,
    read_phrase,
)
from cotjax.cot.thinking import spoken

T = TypeVar("T")

TOLERANCE = 0.01
RELATIVE = 0.01  # of the gold's size, which the tolerance never exceeds
_LOOKBACK = 64  # markers tried, last first; a bound for texts made of markers only

_MARKER = re.compile(
    r"(?P<hash>####)|(?P<boxed>\\(?:boxed|fbox)(?![A-Za-z]))|(?P<tag>(?i:<answer(?:\s[^<>]{0,200})?>))"
    r"|(?i:\bfinal\s{1,4}answer[*_ \t]{0,8}(?:is\b|[:：=]|\r?\n))"
    r"|(?i:\banswer[*_ \t]{0,8}(?:is\b|[:：=]))|答案[ \t]{0,8}[是为:：]"
)
_GOLD = re.compile(r"####|(?i:\banswer[*_ \t]{0,8}[:：])")
_GOLD_OR_BOXED = re.compile(rf"{_GOLD.pattern}|(?P<boxed>\\(?:boxed|fbox)(?![A-Za-z]))")
_OR = re.compile(r"\}\s?\$?,?\s?(?:or|and)\s?\$?\Z")  # \boxed{24} or \boxed{25}
_LAST_WORD = re.compile(r"[^\s=]*\Z")
_ENDS = re.compile(r"(?i)</answer|<\|")  # the tag's end, or a model's special token
_DISPLAY = (("\\[", "\\]"), ("$$", "$$"))
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
    value = _find(text, functools.partial(read_phrase, evaluate=evaluate), WINDOW)
    if value is None and flexible and (said := spoken(text)) is not None:
        value = read_last_number(said)
    return None if value is None or isinstance(value, Hedged) else canonical_number(value)


def find_answer(
    text: str, read: Callable[[str], T | Hedged | None], *, window: int = WINDOW
) -> T | None:
    """The last answer that a reader finds behind a marker; see `extract_answer`.

    Args:
      text: any string.
      read: what a phrase behind a marker says; None passes the marker over, `Hedged` decides that
        there is no answer.
      window: characters behind a marker that are looked at.
    """
    value = _find(text, read, window)
    return None if isinstance(value, Hedged) else value


def _find(text: str, read: Callable[[str], T | Hedged | None], window: int) -> T | Hedged | None:
    said = spoken(text)
    if said is None:
        return None
    for marker in reversed(deque(_MARKER.finditer(said), maxlen=_LOOKBACK)):
        behind = said[marker.end() : marker.end() + window]
        if len(behind) == window and said[marker.end() + window :][:1].isalnum():
            behind = _LAST_WORD.sub("", behind)  # which is cut in two
        if marker["boxed"] and _OR.search(said, max(0, marker.start() - 16), marker.start()):
            return HEDGED
        phrase = _phrase(marker, behind)
        value = None if phrase is None else read(phrase)
        if value is not None:
            return value
    return None


def gold_answer(text: str) -> str | None:
    r"""Returns the answer of a reference, which is read from one place only.

    That is behind the last `####` or `Answer:` of a solution; a text of one line without either
    is the answer itself. Where that place holds no number there is none, whatever else is said.

    Example:
      >>> gold_answer("5 * 8 = 40 ... #### 1,040"), gold_answer("1,040"), gold_answer("Monday")
      ('1040', '1040', None)
      >>> gold_answer("at 3 o'clock #### 5:30"), gold_answer("#### 3\n#### five")
      (None, None)
    """
    place = gold_place(text)
    place = (spoken(text) or "").strip() if place is None else place
    whole = len(place) <= WINDOW and "\n" not in place
    value = read_number(place, evaluate=True) if whole else None
    return None if value is None else canonical_number(value)


def gold_place(text: str, *, boxed: bool = False, window: int = WINDOW) -> str | None:
    r"""What stands behind the last marker of a reference; None without one.

    Args:
      text: of a solution.
      boxed: whether `\boxed{}` is such a marker, beside `####` and `Answer:`.
      window: characters of an answer; one that is longer comes longer.

    Example:
      >>> gold_place("so 4\n#### 5:30\n"), gold_place("so 4")
      ('5:30', None)
    """
    text = spoken(text) or ""
    pattern = _GOLD_OR_BOXED if boxed else _GOLD
    marker = next(iter(deque(pattern.finditer(text), maxlen=1)), None)
    if marker is None:
        return None
    behind = text[marker.end() : marker.end() + 2 * window]  # so that a longer one is seen
    if boxed and marker["boxed"] and behind.lstrip().startswith("{"):
        return _braced(behind)
    return _line(behind)


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


def _phrase(marker: re.Match[str], window: str) -> str | None:
    """What a marker is followed by; None if that is a heading, a step, or another marker."""
    if marker["boxed"] and window.lstrip().startswith("{"):
        return _braced(window)
    window = _ENDS.split(window, maxsplit=1)[0]
    if marker["tag"] and _MARKER.search(window):  # <answer>\boxed{5}</answer>
        return None
    phrase = _line(window)
    if _STEP.match(phrase) or (marker["hash"] and _HEADING.match(phrase)):
        return None
    return phrase


def _line(window: str) -> str:
    """The first line with something on it; of a displayed formula, all of it."""
    text = window.lstrip(" \t\r\n*_:：")
    for opens, closes in _DISPLAY:
        if text.startswith(opens):
            return text[len(opens) :].partition(closes)[0].strip()
    return text.partition("\n")[0]


def _braced(window: str) -> str:
    """Returns what stands between the first brace and its partner (or the end)."""
    depth = 0
    start = window.index("{") + 1
    for position in range(start - 1, len(window)):
        depth += (window[position] == "{") - (window[position] == "}")
        if depth == 0:
            return window[start:position]
    return window[start:]
