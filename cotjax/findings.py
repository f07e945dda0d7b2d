"""What a check of a run found, in one line."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from cotjax.errors import InputError

Verdict = Literal["OK", "NOTE", "FAIL"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
      verdict: NOTE is worth a look, FAIL stops a run or spoils it.
      name: of the check.
      says: in words.
    """

    verdict: Verdict
    name: str
    says: str


class Examination:
    """The checks of one config; each is a finding, and what needs one that failed is left out."""

    def __init__(self) -> None:
        self.failed = False

    def check(self, name: str, function: Callable[..., Any], *args: Any) -> Iterator[Finding]:
        """Calls a check; its words are OK, a list of sentences are notes.

        Yields:
          at least one finding; none if it gives an object, which `got` then holds.
        """
        self.got = None
        try:
            self.got = function(*args)
        except InputError as error:
            self.failed = True
            yield Finding("FAIL", name, str(error))
        if isinstance(self.got, str):
            yield Finding("OK", name, self.got)

    def notes(self, name: str, told: Sequence[str]) -> Iterator[Finding]:
        """A NOTE for each sentence."""
        return (Finding("NOTE", name, one) for one in told)
