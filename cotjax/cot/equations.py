r"""Finds the equations of a text and tells which are true, by exact arithmetic.

Read are numbers with `+ - * / ^`, `×`, `÷`, an `x` between numbers, brackets, percent, LaTeX's
`\times`, `\cdot`, `\div` and `\frac`, the words plus, minus, times and divided by, and up to three
words of a unit behind a number (`7 pens + 5 pens = 12 pens`).

What holds anything else is not judged, rather than guessed: a variable, a function, a root, words
that compute (`half of 12 + 3 = 9`), a unit that divides (`60 km/h`). Nor is `2 = 2`, without an
operation.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from cotjax.cot.numbers import MAX_DIGITS, plain

_MAX_BITS, _MAX_POWER, _MAX_DEPTH = 4096, 64, 20

_MARK = re.compile(r"<<([^<>]*)>>")  # GSM8K's calculator marks
_BULLET = re.compile(r"(?m)^[ \t]*(?:[-*•]|[0-9]{1,3}[.)])[ \t]+")
_FRACTION = re.compile(r"\\[cdt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_POWER = re.compile(r"(?<=[0-9)])\s?\*\*\s?(?=[0-9(])")  # other pairs are bold text
_BEHIND, _BEFORE = r"(?<=[0-9)%])\s{0,3}", r"\s{1,3}(?=[(]?\s?\.?[0-9])"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[$£€¥₹{}`]", ""),
        (rf"{_BEHIND}[xX]\s{{0,3}}(?=[(]?\s?\.?[0-9])|[×·∙⋅]", "*"),
        (r"÷", "/"),
        (rf"(?i){_BEHIND}(?:times|multiplied by){_BEFORE}", "*"),
        (rf"(?i){_BEHIND}divided by{_BEFORE}", "/"),
        (rf"(?i){_BEHIND}plus{_BEFORE}", "+"),
        (r"\s-\s(?=[A-Za-z]{2})", "; "),  # a dash
        # A unit, where the equation goes on behind it.
        (
            r"(?<=[0-9)%])(?:\s{1,2}(?!(?i:of|by|than|times|plus|minus|over|per|half|twice)\b)"
            r"[A-Za-z]{2,20}){1,3}(?=\s{0,3}[-+*/^=≈)])",
            "",
        ),
    )
)
_RUN = re.compile(r"[-+(.0-9][-+*/^()%=≈.,0-9 ]*")
_EQUAL = re.compile("([=≈])")
# Ends a run: a mark of the sentence, or the next number, unless it is the part of a mixed one.
_BREAK = re.compile(r"[.,](?![0-9])|(?<=[0-9)%]) {1,9}(?=[(.0-9])(?![0-9]{1,9}/[0-9])")
# What a number before or behind belongs to.
_BOUND_BEFORE = re.compile(
    r"(?i)(?:\w|[0-9]:|(?:[√±|<>≤≥^*/!\\\u2009]|\b(?:of|by|than|times|plus|minus|over|per|half|third"
    r"|quarter|twice|double|triple|sqrt|log|ln|exp|sin|cos|tan|root|[b-hj-z]))\s?)$"
)
_BOUND_BEHIND = re.compile(r"\s?(?:[b-zB-HJ-Z](?![A-Za-z])|:[0-9]|[\\√±|<>≤≥!^*/+\u2009])")
_NUMBER = r"(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)"
_LONE = re.compile(rf"\s*[-+]?\s?({_NUMBER})\s?(%?)\s*")
_TOKEN = re.compile(rf"\s*(?:(?P<mixed>[0-9]+ +[0-9]+/[0-9]+)|(?P<number>{_NUMBER})|(\S))")


@dataclass(frozen=True, slots=True)
class Equation:
    """An equation of a text.

    Attributes:
      text: with one spelling of every operation, `3*4=12`.
      holds: whether all of its sides are equal. One that is a number with decimals, or follows
        `≈`, may be rounded, or cut off behind its last digit.
      value: of its last side.
    """

    text: str
    holds: bool
    value: Fraction


def equations(text: str) -> tuple[Equation, ...]:
    """The equations of a text that can be judged.

    Example:
      >>> [one.holds for one in equations("Step 1: 7+5=12. 3 x $4 = $13; 10/3 = 3.33")]
      [True, False, True]
      >>> equations("so x + 2 = 5, half of 12 + 3 = 9, and 12 pens = 1 dozen")
      ()
    """
    parts = *_MARK.findall(text), _MARK.sub("", text)
    return tuple(one for part in parts for one in _equations(_normal(part)))


def _normal(text: str) -> str:
    """The text with one spelling of every operation, and without units inside equations."""
    text = _POWER.sub("^", _BULLET.sub("\n", text))
    text = re.sub(r"≈|\\approx(?![A-Za-z])", "\0", text)
    for _ in range(3):  # fractions in fractions
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    text = plain(text).replace("\0", "≈")
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _equations(text: str) -> Iterator[Equation]:
    for run in _RUN.finditer(text):
        start, alone = run.start(), False
        for mark in (*_BREAK.finditer(text, start, run.end()), None):
            stop = mark.start() if mark else run.end()
            piece, before = text[start:stop], text[max(0, start - 12) : start]
            bound = not alone and _BOUND_BEFORE.search(before)
            bound = bound or (mark is None and _BOUND_BEHIND.match(text, stop))
            start, alone = mark.end() if mark else stop, bool(_EQUAL.search(piece))
            if alone and not bound and (one := _judged(piece)) is not None:
                yield one


def _judged(equation: str) -> Equation | None:
    """The equation; None if a side of it cannot be read, or if nothing is computed."""
    parts = _EQUAL.split(equation)
    # A bracket may be around the whole equation.
    parts[0] = parts[0].strip()
    while parts[0].startswith("(") and parts[0].count("(") > parts[0].count(")"):
        parts[0] = parts[0][1:]
    parts[-1] = parts[-1].strip()
    while parts[-1].endswith(")") and parts[-1].count(")") > parts[-1].count("("):
        parts[-1] = parts[-1][:-1]
    try:
        sides = [_Side.of(part) for part in parts[::2]]
    except (_Unreadable, ZeroDivisionError):
        return None
    if all(side.lone for side in sides):
        return None
    pairs = zip(sides, sides[1:], parts[1::2], strict=False)
    holds = all(one.equals(other, about=sign == "≈") for one, other, sign in pairs)
    return Equation(re.sub(r"\s+", "", equation), holds, sides[-1].value)


class _Unreadable(Exception):
    """What stands there is no arithmetic."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A side of an equation: its value, and whether it is one number, as it is written."""

    value: Fraction
    lone: bool
    decimals: int = 0
    percent: bool = False

    @classmethod
    def of(cls, text: str) -> "_Side":
        value = _Parser(text).value()
        if lone := _LONE.fullmatch(text):
            decimals = len(lone[1].partition(".")[2])
            return cls(value, True, decimals, bool(lone[2]))
        return cls(value, False)

    def equals(self, other: "_Side", *, about: bool) -> bool:
        """Whether two sides are equal, one of them perhaps rounded."""
        return any(
            one == two or self._rounds(one, two, about) or other._rounds(two, one, about)
            for one in self._readings()
            for two in other._readings()
        )

    def _rounds(self, written: Fraction, exact: Fraction, about: bool) -> bool:
        """Whether a number is written to its nearest digit, or cut off behind its last."""
        if not (self.lone and (about or self.decimals)):
            return False
        unit = Fraction(1, 10**self.decimals)
        cut = exact - written if exact > 0 else written - exact
        return abs(exact - written) * 2 <= unit or 0 <= cut < unit

    def _readings(self) -> tuple[Fraction, ...]:
        """A percentage may be meant as a share or as a number: `5/20*100 = 25%`."""
        return (self.value, self.value * 100) if self.percent else (self.value,)


class _Parser:
    """The value of an expression: sums of products of powers."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_TOKEN.finditer(text))
        self._place, self._depth = 0, 0

    def value(self) -> Fraction:
        """The whole expression's.

        Raises:
          _Unreadable: it is none, or its numbers are too long.
          ZeroDivisionError: it divides by 0.
        """
        value = self._sum()
        if self._place < len(self._tokens):
            raise _Unreadable
        return value

    def _take(self, signs: str) -> str:
        """The next token if it is one of some signs."""
        if self._place < len(self._tokens):
            sign = self._tokens[self._place][3]
            if sign and sign in signs:
                self._place += 1
                return sign
        return ""

    def _sum(self) -> Fraction:
        total = self._product()
        while sign := self._take("+-"):
            total += self._product() * (1 if sign == "+" else -1)
        return _bounded(total)

    def _product(self) -> Fraction:
        total = self._signed()
        while sign := self._take("*/"):
            other = self._signed()
            total = _bounded(total * other if sign == "*" else total / other)
        return total

    def _signed(self) -> Fraction:
        sign = self._take("+-")
        return -self._power() if sign == "-" else self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        if not self._take("^"):
            return base
        negative = self._take("-")
        exponent = self._atom() * (-1 if negative else 1)
        if exponent.denominator != 1 or abs(exponent) > _MAX_POWER:
            raise _Unreadable
        return _bounded(base ** int(exponent))

    def _atom(self) -> Fraction:
        if self._take("("):
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise _Unreadable
            value = self._sum()
            if not self._take(")"):
                raise _Unreadable
            self._depth -= 1
        else:
            value = self._number()
        return value / 100 if self._take("%") else value

    def _number(self) -> Fraction:
        token = self._tokens[self._place] if self._place < len(self._tokens) else None
        if token is None or token[3] or len(token[0]) > MAX_DIGITS:
            raise _Unreadable
        self._place += 1
        if token["mixed"]:
            whole, part = token["mixed"].split()
            return int(whole) + Fraction(part)
        return Fraction(token["number"].replace(",", ""))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _Unreadable
    return value
