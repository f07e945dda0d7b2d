"""Questions that are trained on and held out: the same text, or the same but for its numbers."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cotjax.interfaces import Record

_WHITE = re.compile(r"\s+")
# What formats a text and computes nothing: no brackets, no sign between numbers, no factorial.
_MARKS = re.compile(
    r"[?;'\"’‘“”…`]|(?<=[^\W\d])!|(?<![0-9])[.,:]|[.,:](?![0-9])"
    r"|(?<![\w)\]}])[*_]{1,3}(?=[^\W\d])|(?<=[^\W\d])[*_]{1,3}(?![\w(\[{])"
)
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
NAMED = 3  # pairs that a sentence names
TRAINED_ON = "trained on too"
LEFT_OUT = "They are left out of training."


@dataclass(frozen=True)
class Duplicates:
    """Held-out records that are trained on too, each with the first such record.

    Attributes:
      same: (held out, trained on) by id; their questions differ in case, white space and marks at
        most.
      but_for_numbers: further ones, whose questions differ in their numbers too. Problems made
        from templates do so by design.
    """

    same: tuple[tuple[str, str], ...]
    but_for_numbers: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """What was found, in one sentence; empty if nothing was."""
        found = []
        if self.same:
            found.append(f"{_told(self.same)} {TRAINED_ON}")
        if self.but_for_numbers:
            more = " more" if self.same else ""
            found.append(
                f"{_told(self.but_for_numbers, more)} trained on with other numbers, as problems "
                "made from a template are by design"
            )
        return "; ".join(found)


def find_duplicates(train: Iterable[Record], held_out: Sequence[Record]) -> Duplicates:
    """Compares every question of one part with every one of the other; linear in their text.

    Example:
      >>> train = [Record("a", "Tom has 3 pens.", "3", (), 1)]
      >>> held_out = [Record("c", "tom has 3  pens", "3", (), 1)]
      >>> held_out.append(Record("d", "Tom has 4 pens?", "4", (), 1))
      >>> find_duplicates(train, held_out)
      Duplicates(same=(('c', 'a'),), but_for_numbers=(('d', 'a'),))
    """
    asked = [(record.id, *_texts(record)) for record in held_out]
    # By text the first record that is trained on; of texts that are held out alone, for they are
    # few, and those that are trained on may be millions.
    texts: dict[str, str] = dict.fromkeys((text for _, text, _ in asked), "")
    masked: dict[str, str] = dict.fromkeys((cut for _, _, cut in asked), "")
    for record in train:
        for text, first in zip(_texts(record), (texts, masked), strict=True):
            if first.get(text) == "":
                first[text] = record.id
    same = [(name, texts[text]) for name, text, _ in asked if texts[text]]
    other = [(name, masked[cut]) for name, text, cut in asked if not texts[text] and masked[cut]]
    return Duplicates(tuple(same), tuple(other))


def _texts(record: Record) -> tuple[str, str]:
    """A record's question without what does not change it, and the same without its numbers."""
    text = normal_text(record.question)
    return text, _NUMBER.sub("0", text)


def without_duplicates(train: Sequence[Record], held_out: Sequence[Record]) -> list[Record]:
    """The records whose question is not held out, whatever its case, white space and marks."""
    texts = {normal_text(record.question) for record in held_out}
    return [record for record in train if normal_text(record.question) not in texts]


def normal_text(text: str) -> str:
    r"""A text without what does not change a question: case, white space, punctuation.

    Example:
      >>> normal_text("What is  3.5 - 2?\n"), normal_text("WHAT is 3.5 - 2")
      ('what is 3.5 - 2', 'what is 3.5 - 2')
    """
    text = unicodedata.normalize("NFC", text).casefold()
    return _WHITE.sub(" ", _MARKS.sub("", text)).strip()


def _told(pairs: Sequence[tuple[str, str]], more: str = "") -> str:
    names = ", ".join(f"{one} = {other}" for one, other in pairs[:NAMED])
    are = "question is" if len(pairs) == 1 else "questions are"
    named = f"({names}{', …' if len(pairs) > NAMED else ''})"
    return f"{len(pairs)}{more} held-out {are.replace(' ', f' {named} ', 1)}"
