"""The options of a multiple-choice row, as data sets have them, and which of them is right.

choices  ["…", "…"]  or  {"text": ["…", "…"], "label": ["A", "B"]}  or  {"A": "…", "B": "…"}
or  [{"label": "A", "text": "…"}, …]; letters in front of the texts, as "A) …", go
answer   a letter or label, the number of the option from 0, or the option's text
"""

import re
from collections.abc import Mapping
from typing import Any

from cotjax.errors import InputError

LETTERS = "ABCDEFGHIJ"

_LETTER = re.compile(r"\(?([A-Ja-j])[).]?\Z")
_PREFIX = re.compile(r"\s*\(?([A-J])\s?[).:]\s*")


def read_choices(choices: Any, answer: Any, name: str) -> tuple[list[str], str]:
    """The options as a prompt shows them, and the letter of the right one.

    Args:
      choices: of a row; see above.
      answer: of a row.
      name: of the row, for errors.

    Example:
      >>> read_choices(["Rome", "Paris"], 1, "f:1")
      (['A) Rome', 'B) Paris'], 'B')

    Raises:
      InputError: no options, too many, two that are equal, or an answer that is none of them.
    """
    labels, options = _options(choices, name)
    if not 2 <= len(options) <= len(LETTERS):
        raise InputError(
            f'{name}: "choices" holds {len(options)} options; 2 to {len(LETTERS)} are needed.'
        )
    if len(set(options)) < len(options):
        raise InputError(f'{name}: "choices" holds one option twice, so an answer is not clear.')
    place = _place(answer, labels, options)
    if place is None:
        raise InputError(
            f'{name}: "answer" = {answer!r:.60} is none of the {len(options)} options. Write its '
            "letter, its number from 0, or its text."
        )
    shown = [f"{letter}) {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return shown, LETTERS[place]


def _options(choices: Any, name: str) -> tuple[list[str], list[str]]:
    """Labels and texts."""
    labels: list[Any] = list(LETTERS)
    if isinstance(choices, Mapping) and isinstance(choices.get("text"), list):
        labels, choices = choices.get("label") or labels, choices["text"]
        if not isinstance(labels, list) or len(labels) < len(choices):
            raise InputError(f'{name}: "choices.label" needs a list with a label for each option.')
    elif isinstance(choices, Mapping):
        kept = {label: text for label, text in choices.items() if text is not None}
        labels, choices = list(kept), list(kept.values())
    elif all(isinstance(one, Mapping) for one in choices):
        labels = [one.get("label") for one in choices]
        choices = [one.get("text") for one in choices]
    texts = [str(one).strip() if isinstance(one, str | int | float) else "" for one in choices]
    if not all(texts):
        raise InputError(f'{name}: "choices" needs a text for each option.')
    prefixes = [_PREFIX.match(text) for text in texts]
    if [found and found[1] for found in prefixes] == list(LETTERS[: len(texts)]):
        texts = [_PREFIX.sub("", text, count=1) or text for text in texts]
    return [str(label).strip() for label in labels], texts


def _place(answer: Any, labels: list[str], options: list[str]) -> int | None:
    """The number of the right option from 0; None if it is none or not clear."""
    if isinstance(answer, int | float):
        if str(answer) in labels[: len(options)]:
            return labels.index(str(answer))
        return int(answer) if answer in range(len(options)) else None
    text = answer.strip()
    places = set()
    if text in labels[: len(options)]:
        places.add(labels.index(text))
    elif found := _LETTER.match(text):
        places.add(LETTERS.index(found[1].upper()))
    same = [number for number, one in enumerate(options) if _squeezed(one) == _squeezed(text)]
    places.update(same)
    place = places.pop() if len(places) == 1 else None
    return place if place is not None and place < len(options) else None


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split())
