"""The one exception for bad input: a message a person can act on, without a traceback."""

import re
import reprlib
import signal as signals

# Control characters but tab and line feed, what turns the direction of text, and half pairs.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb"
    "\ud800-\udfff]"
)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8


def visible(text: str) -> str:
    r"""A text as it is shown to a person: control characters as escapes, which do nothing.

    Example:
      >>> visible("red \x1b[31m and \0"), visible("two\n\tlines")
      ('red \\x1b[31m and \\x00', 'two\n\tlines')
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(value: object) -> str:
    """A value in an error: as Python writes it, and shortened where that would fill the screen.

    Example:
      >>> shown("a"), len(shown("a" * 10**6)), shown(list(range(100)))
      ("'a'", 80, '[0, 1, 2, 3, 4, 5, 6, 7, ...]')
    """
    return _SHORT.repr(value)


class InputError(Exception):
    """A config, file or argument is wrong and the user can fix it.

    The message names what was wrong with its value, what is needed, and the key or line to
    change. Command-line entry points print it alone and exit with status 2.
    """


TRACEBACK = "The traceback is in "  # how the note of an unexpected error begins


class Stopped(KeyboardInterrupt):
    """A signal asked a run to end, and it has saved itself; no fault of anything.

    Args:
      signal: its number.
      then: a sentence: how the run goes on.
    """

    def __init__(self, signal: int, then: str = "") -> None:
        super().__init__(signal, then)
        self.signal, self.then = signal, then

    def __str__(self) -> str:
        """Which signal, and how the run goes on."""
        return f"stopped by {signals.Signals(self.signal).name}. {self.then}".strip()

    def and_then(self, more: str) -> "Stopped":
        """The same with a further sentence."""
        return Stopped(self.signal, f"{self.then} {more}".strip())

    @property
    def status(self) -> int:
        """The exit status that shells and schedulers know: 130 or 143."""
        return 128 + self.signal


class NothingToDo(InputError):
    """A stage has no work, as when no problem is a persistent failure; a list skips it."""


class PluginError(InputError):
    """A user's function raised, or gave what it must not give; a run that it ends is saved first.

    Args:
      what: happened to which function.
      then: the rest of the sentence: where, and what to do.
      record: id of the record that it was called for; empty if there is none.
    """

    def __init__(self, what: str, then: str = "", record: str = "") -> None:
        super().__init__(what, then, record)
        self.what, self.then, self.record = what, then, record

    def __str__(self) -> str:
        """What happened, on which record, where, and what to do."""
        return f"{self.what}{f' on {self.record}' if self.record else ''}{self.then}"

    def on(self, record: str) -> "PluginError":
        """The same error, about a record if it names none yet."""
        return PluginError(self.what, self.then, self.record or record)

    def and_then(self, more: str) -> "PluginError":
        """The same error with a further sentence."""
        return PluginError(self.what, f"{self.then} {more}", self.record)


class NotFinite(InputError):
    """Weights, or a training state, hold a NaN or an infinity; names the array."""


class BadSteps(InputError):
    """Several steps in a row had numbers that are NaN or infinite; a run that they end is saved."""

    def and_then(self, more: str) -> "BadSteps":
        """The same error with a further sentence."""
        return BadSteps(f"{self} {more}")
