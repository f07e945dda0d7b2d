"""How far a long task is, and how long it will still take."""

import sys
import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

EVERY = 20.0  # seconds between two plain lines; a task that is done sooner prints none


class Progress:
    """One line on a terminal, which goes when the task ends; elsewhere a plain line now and then.

    Args:
      what: is going on.
      total: units of it.
      unit: their name.
      stream: where to; None is the standard error output.
      quiet: says nothing, as all processes but the first.
    """

    def __init__(
        self, what: str, total: int, unit: str, *, stream: TextIO | None = None, quiet: bool = False
    ) -> None:
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._stream = sys.stderr if stream is None else stream
        self._quiet, self._bar = quiet, None
        if self._stream.isatty() and not quiet:
            words = TextColumn("{task.description}", markup=False), BarColumn(24)
            console = Console(file=self._stream)
            self._bar = Bar(*words, TextColumn("{task.fields[told]}"), console=console,
                            transient=True)  # fmt: skip

    def __enter__(self) -> "Progress":
        """Starts the clock."""
        self._began = self._told = time.monotonic()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=self._total, told=self._words(0))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clears the line."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """One more unit is done."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            told = self._words(now - self._began)
            self._bar.update(self._task, completed=self._done, told=told)
        elif not self._quiet and now - self._told >= EVERY and self._done < self._total:
            self._told = now
            print(f"{self._what}: {self._words(now - self._began)}", file=self._stream, flush=True)

    def _words(self, seconds: float) -> str:
        words = f"{self._done} of {self._total} {self._unit}"
        if not 0 < self._done < self._total:
            return words
        return f"{words}, about {duration(seconds / self._done * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    """A time as a person says it.

    Example:
      >>> duration(42), duration(100), duration(5400)
      ('42 s', '2 min', '1 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
