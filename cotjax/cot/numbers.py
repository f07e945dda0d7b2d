r"""Reads one number as people and models write it, exactly, as a fraction.

Understood: signs (also U+2212), thousands commas, currency before or after, percent signs,
decimals, `3/4`, `\frac{3}{4}`, `½`, mixed numbers, `1.5e6`, `1.5 × 10^6`, `5 million`, units,
bold text and LaTeX spacing. A percent sign and a unit are dropped, not applied: `50%` is 50.

Refused rather than guessed: `nan`, `inf`, numbers that need more than 100 digits (`1e999`),
division by zero, a comma that does not group thousands (`3,50`), ranges, times and sums without
a result (`10-15`, `3:30`, `3 + 4`).
"""

import re
from fractions import Fraction

WINDOW = 300
"""Characters looked at behind a marker; it bounds the time spent on any text."""

MAX_DIGITS = 100
"""Characters of an integer or decimal, and of each side of a fraction."""

_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8"}
_CHARACTERS = str.maketrans(
    dict(zip("０１２３４５６７８９，．＋－＄％（）＝", "0123456789,.+-$%()=", strict=True))
    | dict.fromkeys("−﹣–", "-")
    | dict.fromkeys("⁄∕", "/")
    | dict.fromkeys("·∙⋅", "×")
    | dict.fromkeys("\u00a0\u202f", "\u2009")
    | {character: f" {fraction}" for character, fraction in _VULGAR.items()}
    | {"≈": "="}
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_DECIMAL = r"(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)"

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!|\\left|\\right|\*\*|__", ""),
        (r"\\[,;: ]|~", "\u2009"),
        (r"\\([$%])", r"\1"),
        (r"\{,\}", ","),
        (r"\\(?:text|textbf|mathbf|mathrm|mbox)\s?\{", " "),
        (r"\\(?:times|cdot)", "×"),
        (r"\\div", "÷"),
        (r"\\approx", "="),
        (r"\^\{?\\circ\}?", "°"),
        (r"([0-9])?\s?\\[dt]?frac\s?([0-9])([0-9])", r"\1 \2/\3"),
        (
            rf"([0-9] ?)?\\[dt]?frac\s?\{{\s?([-+]?)\$?({_DECIMAL})\s?\}}\s?"
            rf"\{{\s?\$?({_DECIMAL})\s?\}}",
            lambda m: f"{m[1]} {m[3]}/{m[4]}" if m[1] else f"{m[2]}{m[3]}/{m[4]}",
        ),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS)),
        (r"(?<![0-9.,])10\s?\^\s?\{?([-+]?[0-9]{1,9})\}?", r"1e\1"),
        (r"(?<=[0-9])\s?[×x*]\s?1e(?=[-+]?[0-9])", "e"),
        (r"(?<=[0-9])\u2009(?=[0-9]{3}(?![0-9]))", ","),
    )
)

_NUMBER = re.compile(
    rf"""
    (?:(?<![\w)}}%])(?P<sign>[-+]))? (?:[$£€¥₹]\s?)? (?P<inner>[-+])?
    (?<![A-Za-z0-9_.^])
    (?: (?:(?P<whole>[0-9]+)\s{{1,3}}(?:and\s)?)? (?P<over>{_DECIMAL})\s?/\s?(?P<under>{_DECIMAL})
      | (?P<plain>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,9}}))? )
    (?![0-9]|[.,][0-9])
    (?:\s?(?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE,
)
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]+)?")
_OPERATION = re.compile(r"\s?%?\s?[-+*/×÷^:x]\s?[-+]?[$£€¥₹(]{0,2}\s?\.?[0-9]")
_ASIDE = re.compile(r"(?<![-+*/×÷=(])\s\(|;|\.\s")
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def read_number(text: str) -> Fraction | None:
    """Returns the number that an answer phrase states, or None.

    It is the first number; if the phrase is an equation (`3 + 4 = 7 apples`), the first number
    behind its last `=`. Brackets, `;` and a full stop end the phrase, so `7 (as 2 + 5 = 7)` is 7.
    Only the first 300 characters are read.

    Example:
      >>> read_number("**-$1,234.50** per year"), read_number("3 1/2 cups"), read_number("nan")
      (Fraction(-2469, 2), Fraction(7, 2), None)
    """
    text = _plain(text[:WINDOW])
    aside = _ASIDE.search(text)
    phrase = text[: aside.start()] if aside else text
    for start in (phrase.rfind("=") + 1, 0):
        match = _NUMBER.search(text, start)
        if match:
            return None if _OPERATION.match(text, match.end()) else _value(match)
    return None


def read_last_number(text: str) -> Fraction | None:
    """Returns the last readable number among the 300 characters around the text's last digit."""
    backwards = re.search("[0-9]", text[::-1])
    if backwards is None:
        return None
    last = len(text) - backwards.start()
    matches = _NUMBER.finditer(_plain(text[max(0, last - WINDOW) : last + 1]))
    values = [value for value in map(_value, matches) if value is not None]
    return values[-1] if values else None


def canonical_number(value: Fraction) -> str:
    """Writes a fraction in one way: `-1234.5`, or `1/3` when no decimal is exact.

    No exponent, comma, plus sign or trailing zero, so equal numbers are equal strings.

    Example:
      >>> canonical_number(Fraction(-2469, 2)), canonical_number(Fraction(2, 6))
      ('-1234.5', '1/3')
    """
    rest, places = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while rest % prime == 0:
            rest, power = rest // prime, power + 1
        places = max(places, power)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    if places == 0:
        return str(value.numerator)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _plain(text: str) -> str:
    """Undoes LaTeX, bold and typographic characters, so that one pattern reads every number."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _decimal(text: str | None) -> Fraction | None:
    if text is None or len(text) > MAX_DIGITS or ("," in text and not _GROUPED.fullmatch(text)):
        return None
    return Fraction(text.replace(",", ""))


def _value(match: re.Match[str]) -> Fraction | None:
    if match["over"]:
        whole, over = _decimal(match["whole"] or "0"), _decimal(match["over"])
        under = _decimal(match["under"])
        if whole is None or over is None or not under:
            return None
        value = whole + over / under
    else:
        plain, exponent = _decimal(match["plain"]), int(match["exponent"] or 0)
        if plain is None or abs(exponent) > MAX_DIGITS:
            return None
        value = plain * Fraction(10) ** exponent
    value *= _SCALES.get(match["scale"], 1)
    if max(map(len, canonical_number(value).split("/"))) > MAX_DIGITS:
        return None
    return -value if (match["sign"] == "-") != (match["inner"] == "-") else value
