"""What values of a model's file may be, and how an error says it: types and ranges in one table.

A size is bounded before anything is made of it: a file that names 10^9 layers is an error, not a
list of 10^9 entries. The bounds lie far above every published model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from cotjax.errors import InputError, shown

MOST_LAYERS = 10_000
MOST_ROWS = 2**24  # of an embedding
MOST_WIDTH = 2**20  # of a hidden state or an MLP
MOST_HEADS = 2**13  # heads, and numbers of a head
MOST_POSITIONS = 2**31 - 1
_LARGEST = 1e12  # of a number that is no size: with its inverse it stays in float32's range


class Kind(NamedTuple):
    """A test of values, and what it asks for; of integers also the largest."""

    holds: Callable[[Any], bool]
    needed: str
    most: int = 0


def is_whole(value: Any, least: int = 1, most: int = MOST_POSITIONS) -> bool:
    """Whether a value is an integer of a range; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value is a positive number with which float32 can compute."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 1 / _LARGEST <= value <= _LARGEST


def whole(most: int, least: int = 1) -> Kind:
    """Integers of a range."""
    needed = "a positive integer" if least == 1 else f"an integer from {least} on"
    return Kind(lambda value: is_whole(value, least, most), needed, most)


def each(one: Callable[[Any], bool], what: str) -> Kind:
    """Lists whose every item passes a test."""
    return Kind(
        lambda value: isinstance(value, list) and all(map(one, value)),
        f"a list of {what}",
    )


NUMBER = Kind(is_number, "a positive number")
TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str), "a text")
TEXTS = Kind(  # a vocabulary has a hundred thousand
    lambda value: isinstance(value, list) and set(map(type, value)) <= {str}, "a list of texts"
)


def check_kind(value: Any, kind: Kind, key: str, origin: str) -> None:
    """Refuses a value of a wrong type or range.

    Raises:
      InputError: names the file, the key, the value and what is needed.
    """
    if kind.most and isinstance(value, int) and value > kind.most:
        raise InputError(f"{origin}: {key} = {shown(value)}; {kind.most:,} at most is read.")
    if not kind.holds(value):
        raise InputError(f"{origin}: {key} = {shown(value)}; {kind.needed} is needed.")
