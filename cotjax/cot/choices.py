r"""Reads the letter of a multiple-choice answer, A to J, as people and models write it.

Understood: `B`, `(B)`, `b)`, `B. Paris`, `option B`, `\text{(B)}`, `**B**`, `Paris (B)`. Refused
rather than guessed: a word that begins with a letter (`Because`), the words `A` and `I` of a
sentence, and more than one letter (`B or C`, `A, B`), which commits to none.
"""

import re
import unicodedata

from cotjax.cot.numbers import HEDGED, Hedged

LETTERS = "ABCDEFGHIJ"

_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed|fbox|mbox)(?![A-Za-z])|\\[()\[\]]|\\")
_MARKS = re.compile(r"[$*_`\"“”{}]")
_WORDS = re.compile(
    r"(?i)^(?:the\s+)?(?:correct\s+|right\s+)?(?:option|choice|answer|letter)\s+(?:is\s+)?"
)
_LETTER = re.compile(
    r"""(?x)
    [(\[]\s?(?P<inside>[A-Ja-j])\s?[)\]]                      # (B), [b]
    | (?P<alone>[A-Ja-j])(?=\s*$|\s?[).:\],;](?!\w)|\s?[/&])          # B, b), B.
    | (?P<capital>[B-HJ])(?=\s)                               # B Paris, B because
    | (?P<word>[AI])(?=\s+(?:[(\[=–—-]|(?:because|since|or|and|is\s+(?:correct|right))\b))
    """
)
_INSIDE = re.compile(r"[(\[]\s?([A-J])\s?[)\]]")
_OTHER = re.compile(r"^[)\].:]{0,2}\s*(?:or|and|to|vs\.?|[/,;&-])\s*[(\[]?\s?[A-J](?![A-Za-z])")
_NOT = re.compile(r"(?i)^(?:not|never|neither|either|maybe|perhaps|possibly|none)\b")


def read_choice(phrase: str) -> str | Hedged | None:
    r"""The letter that an answer phrase states, in capitals; None if it states none.

    Example:
      >>> read_choice("(b) Paris"), read_choice(r"\text{C}."), read_choice("A dog")
      ('B', 'C', None)
      >>> isinstance(read_choice("B or C"), Hedged)
      True
    """
    text = unicodedata.normalize("NFKC", phrase.partition("\n")[0][:300])
    text = _MARKS.sub("", _LATEX.sub("", text)).strip(" \t.:=")
    text = _WORDS.sub("", text).lstrip()
    if _NOT.match(text):
        return HEDGED
    found = _LETTER.match(text)
    if found is None:
        inside = set(_INSIDE.findall(text))
        if len(inside) > 1:
            return HEDGED
        return inside.pop() if inside else None
    if _OTHER.match(text[found.end() :]):
        return HEDGED
    letters = (found[name] for name in ("inside", "alone", "capital", "word"))
    return next(letter for letter in letters if letter).upper()
