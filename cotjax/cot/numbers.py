r"""Reads one number as people and models write it, exactly, as a fraction.

Understood: signs (`- 7`, `minus 7`, U+2212), groups of three digits behind a comma, a point, a
space, an apostrophe or an underscore with the other mark as the decimal one (`1.234,50`), currency
before or after, percent signs, `3/4`, `\frac{3}{4}`, `½`, mixed numbers, `1.5e6`, `1.5 × 10^6`,
`5 hundred thousand`, units, bold text and LaTeX spacing. A percent sign and a unit are dropped, not
applied: `50%` is 50.

Refused rather than guessed: `nan`, `inf`, numbers that need more than 100 digits (`1e999`),
division by zero, a comma that does not group thousands (`3,50`), ranges, times and sums without
a result (`10-15`, `3:30`, `3 + 4`, `2**3`), repeating decimals (`0.(3)`), a part of a measure
(`5 hours 30 minutes`, `24k`).
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

# Groups of three digits behind a separator, the same throughout, and the other mark as the decimal
# one; a lone point is decimal, and only commas may group by two as in India.
_GROUPS = (
    r"[0-9]{1,3}(?:,[0-9]{2})*(?:,[0-9]{3})+(?:\.[0-9]+)?",
    r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+",
    r"[0-9]{1,3}(?:\.[0-9]{3}){2,}",
    r"[0-9]{1,3}(?:[\u2009 ][0-9]{3})+(?![0-9])(?:[.,][0-9]+)?",
    r"[0-9]{1,3}(?:['’][0-9]{3})+(?:[.,][0-9]+)?",
    r"[0-9]{1,3}(?:_[0-9]{3})+(?:\.[0-9]+)?",
)
_DECIMAL = rf"(?:{'|'.join(_GROUPS)}|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_PLAIN = r"(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)"

_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=[0-9)}])(\s?)\*\*\1(?=[({]?[0-9])", "^"),  # 10**3 is a power, **10** is bold
        (r"\\!|\\left|\\right|\\displaystyle|\\limits|\*\*|__", ""),
        (r"\\[,;: ]|~|\\(?:quad|qquad|ldots|dots)(?![A-Za-z])", "\u2009"),
        (r"\\([$%#&])", r"\1"),
        (r"\\_", "_"),
        (r"\\[()\[\]]", " "),
        (r"\{([,.])\}", r"\1"),
        (r"\\(?:text|textbf|textit|mathbf|mathrm|mathit|mbox|operatorname)\s?\{", " "),
        (r"\\(?:times|cdot)(?![A-Za-z])", "×"),
        (r"\\div(?![A-Za-z])", "÷"),
        (r"\\(?:approx|simeq)(?![A-Za-z])", "="),
        (r"\^\{?\\circ\}?", "°"),
        (rf"-\s?\(\s?({_PLAIN})\s?\)", r"-\1"),
        (r"<\s?([-+$]?[0-9][0-9.,]*)\s?>", r"\1"),
        (r"(?i)\b(?:minus|negative)\s{1,3}(?=[$£€¥₹(]?\s?[.0-9\\])", "-"),
        (r"([0-9])?\s?\\[cdt]?frac\s?([0-9])([0-9])", r"\1 \2/\3"),
        (
            rf"([0-9] ?)?\\[cdt]?frac\s?\{{\s?([-+]?)\s?\$?({_PLAIN})\s?\}}\s?"
            rf"\{{\s?([-+]?)\s?\$?({_PLAIN})\s?\}}",
            lambda m: f"{m[1] or ''}{_sign(m[2], m[4])}{' ' * bool(m[1])}{m[3]}/{m[5]}",
        ),
        (r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS)),
        (r"(?<![0-9.,])10\s?\^\s?\{?([-+]?[0-9]{1,9})\}?", r"1e\1"),
        (r"(?<=[0-9])\s?[×x*]\s?1e(?=[-+]?[0-9])", "e"),
    )
)

_NUMBER = re.compile(
    rf"""
    (?: (?: (?:^|(?<=[=({{\[|:]))\s*(?P<loose>[-+])\s* | (?<![\w)}}%])(?P<sign>[-+]) ) (?:\(\s?)? )?
    (?:[$£€¥₹]\s?)? (?:(?P<inner>[-+])\s?)?
    (?<![A-Za-z0-9_.^]) (?<![0-9][,'’])
    (?: (?:(?P<whole>[0-9]+)\s{{1,3}}(?:and\s)?)? (?P<over>{_PLAIN})\s?/\s?(?P<minus>-)?
        (?P<under>{_PLAIN})
      | (?P<plain>{_DECIMAL})(?:[eE](?P<exponent>[-+]?[0-9]{{1,9}}))? )
    (?![0-9]|[.,'’_][0-9])
    (?: \s?(?P<scale>dozen|hundred|thousand|million|billion|trillion)\b
        (?:\s(?P<times>thousand|million|billion|trillion)\b)? )?
    """,
    re.VERBOSE,
)
_INTEGER = re.compile(r"-?[0-9]+")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]+)?")
# What makes a number a part of something else: an operation, a power, a variable, a list.
_GOES_ON = re.compile(
    r"\s?%?\s?[-+*/×÷^:x]\s?[-+]?[$£€¥₹(]{0,2}\s?-?\.?[0-9]|\s?\^|\s[0-9]|\.{2}\s?[0-9]|,\s?[-+$]{0,2}[0-9]"
    r"|[a-zA-Z](?![A-Za-z])(?<=[nxyzπkKMB])|\s?\\[A-Za-z]|\s?[±π√!]|\+(?![0-9])|\s?[-+*/]\s?[a-z](?![A-Za-z])"
    r"|\s?(?:h|hrs?|hours?|min(?:ute)?s?|days?|weeks?|months?|years?|feet|foot|ft|m|km|kg|pounds?|lbs?"
    r"|dollars?),?\s?[0-9]|\.?[eE][-+]?[0-9]|\.?\(-?[0-9]|\.\\(?:overline|bar|dot)|[\u0304\u0305\u0307]"
)
# What stands before a number that is a part of something else: an operation, a command.
_COMES_FROM = re.compile(r"\\[A-Za-z]+|(?:\b[A-Za-z]|[0-9)}])\s?[-+*/×÷^]\s?$|[±<>≤≥√]=?\s?$")
# What is computed with a number, in words: before it, and behind it.
_OF = re.compile(
    r"(?i)\b(?:sqrt|log|ln|exp|sin|cos|tan|(?:root|half|third|quarter|twice|double|triple)"
    r"(?:\s{1,3}of)?)\s?[({]?\s?$"
)
_WITH = re.compile(
    r"(?i)\s{1,3}(?:plus|minus|times(?!\s+(?:as|more|a)\b)|divided|multiplied|squared|cubed"
    r"|k|bn|mn)\b(?!\s?=)"
)
# What takes an answer back behind it.
_TAKEN_BACK = re.compile(
    r"(?i)\s?[-,.…]{0,3}\s{1,3}(?:is\s{1,3}(?:not\b|wrong|incorrect)|isn['’]t|no,?\s|actually|wait)"
)
_UNSOLVED = re.compile(r"[0-9]\s?\*?\s?[xyz]\s*=\s*\Z")
_ASIDE = re.compile(r"(?<![-+*/×÷=(])\s\(|;|\.\s")
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_NEGATED = re.compile(
    r"(?i)(?:\b(?:not|never|neither|nor|cannot|without)\b|n['’]t\b"
    r"|\b(?:maybe|perhaps|possibly|probably|unlikely|either|between|might|could|wrong)\b"
    r"|\bat\s{1,3}(?:least|most)\b"
    r"|\b(?:more|less|fewer|greater|other)\s{1,3}than\b)[^=]*$"
)
# What names a second number behind the first: `or 25`, `and 50 cents`, `or x = 3`.
_OR = re.compile(
    r"(?i)\b(?:or|and|to|vs\.?|versus)(?:\s?\}\s?|\s{1,3})(?:a\s{1,3})?[-+$£€]{0,2}\s?"
    r"(?:\.?[0-9]|(?:so|more|less|fewer|half|third|quarter|one|two|three|four|five)\b)"
)
_OR_ELSE = re.compile(r"(?i)\b(?:or|and)\s{1,3}[$(\\]{0,2}[a-z]\w{0,9}\s?=")


class Hedged:
    """Stands for an answer that commits to no number: `not 24`, `24 or 25`, `between 3 and 5`."""


HEDGED = Hedged()


def is_negated(text: str) -> bool:
    """Whether a phrase says that its answer is not the one, or may be another: `not 24`."""
    return bool(_NEGATED.search(text))


def _sign(first: str, second: str) -> str:
    return "-" if (first == "-") != (second == "-") else ""


def read_number(text: str, *, evaluate: bool = False) -> Fraction | None:
    """Returns the number that an answer phrase states, or None.

    It is the first number; if the phrase is an equation (`3 + 4 = 7 apples`), the first number
    behind its last `=`. Brackets, `;` and a full stop end the phrase, so `7 (as 2 + 5 = 7)` is 7.
    Only the first 300 characters are read.

    Args:
      text: the phrase.
      evaluate: whether `48/2` is 24; else a quotient that comes out even is an unfinished sum.

    Example:
      >>> read_number("**-$1,234.50** per year"), read_number("3 1/2 cups"), read_number("nan")
      (Fraction(-2469, 2), Fraction(7, 2), None)
      >>> read_number("48/2"), read_number("48/2", evaluate=True), read_number("not 24")
      (None, Fraction(24, 1), None)
    """
    value = read_phrase(text, evaluate=evaluate)
    return None if isinstance(value, Hedged) else value


def read_phrase(text: str, *, evaluate: bool = False) -> Fraction | Hedged | None:
    """As `read_number`, but tells a phrase that commits to no number from one that has none."""
    if len(text) < 16 and _INTEGER.fullmatch(text):  # as canonical numbers are, so often
        return Fraction(text)
    text = plain(text[:WINDOW])
    aside = _ASIDE.search(text)
    phrase = text[: aside.start()] if aside else text
    for start in (phrase.rfind("=") + 1, 0):
        match = _NUMBER.search(text, start)
        if match is None:
            continue
        before = text[start : match.start()]
        if (
            _NEGATED.search(before)
            or _OR.search(phrase, match.end())
            or _OR_ELSE.search(phrase, 0, match.start())
        ):
            return HEDGED
        written = text[start : match.start()] + match[0][:1].strip("$£€¥₹.0123456789")
        if _TAKEN_BACK.match(text, match.end()):
            return HEDGED
        if _GOES_ON.match(text, match.end()) or _COMES_FROM.search(written):
            return None
        if _WITH.match(text, match.end()) or _OF.search(before):
            return None
        if _UNSOLVED.search(text, 0, start):
            return None
        return _value(match, evaluate=evaluate)
    return None


def read_last_number(text: str) -> Fraction | None:
    """Returns the last readable number among the 300 characters around the text's last digit."""
    backwards = re.search("[0-9]", text[::-1])
    if backwards is None:
        return None
    last = len(text) - backwards.start()
    matches = _NUMBER.finditer(plain(text[max(0, last - WINDOW) : last + 1]))
    values = [value for match in matches if (value := _value(match)) is not None]
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


def plain(text: str) -> str:
    """Undoes LaTeX, bold and typographic characters, so that one pattern reads every number."""
    text = text.translate(_CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _decimal(text: str | None) -> Fraction | None:
    """A number without sign, whose separators `_DECIMAL` has let through."""
    if text is None or len(text) > MAX_DIGITS:
        return None
    text = re.sub("[\u2009 '’_]", "", text)
    comma, point = text.rfind(","), text.rfind(".")
    if comma > point >= 0 or (point < 0 <= comma and not _GROUPED.fullmatch(text)):
        if point < 0 and text.count(",") > 1:
            return None
        text = text.replace(".", "").replace(",", ".")  # 1.234,50
    elif text.count(".") > 1:
        text = text.replace(".", "")  # 1.234.567
    elif comma >= 0 and not _GROUPED.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))


def _value(match: re.Match[str], *, evaluate: bool = False) -> Fraction | None:
    if match["over"]:
        whole, over = _ratio_part(match["whole"] or "0"), _ratio_part(match["over"])
        under = _ratio_part(match["under"])
        if whole is None or over is None or not under:
            return None
        if over % under == 0 and over and not evaluate:
            return None
        value = whole + over / under
    else:
        plain, exponent = _decimal(match["plain"]), int(match["exponent"] or 0)
        if plain is None or abs(exponent) > MAX_DIGITS:
            return None
        value = plain * Fraction(10) ** exponent
    value *= _SCALES.get(match["scale"], 1) * _SCALES.get(match["times"], 1)
    if max(map(len, canonical_number(value).split("/"))) > MAX_DIGITS:
        return None
    signs = (match[name] == "-" for name in ("loose", "sign", "inner", "minus"))
    return -value if sum(signs) % 2 else value


def _ratio_part(text: str) -> Fraction | None:
    if len(text) > MAX_DIGITS or ("," in text and not _GROUPED.fullmatch(text)):
        return None
    return Fraction(text.replace(",", ""))
