"""How far a long task is, and how long it will still take: one line each.

On a terminal the lines of all that is going on stand together, and each goes when its task ends;
elsewhere a plain line is printed now and then. A run shows them below its table, see `sharing`.
Time that is left is only said once something was measured.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table
from rich.text import Text

EVERY = 20.0  # seconds between two plain lines; a task that is done sooner prints none
LATE = 1.0  # seconds after which a task has a line on a terminal, so that none flashes up
NARROW = 48  # columns of a terminal that has no place for bars


class Words(ProgressColumn):
    """What a task says at the moment, by its field `words`."""

    def render(self, task: Task) -> Text:
        """The words, in one line."""
        return Text(task.fields["words"](), no_wrap=True, overflow="ellipsis")


class Board(Bar):
    """The lines of all that is going on, as rich shows them.

    Args:
      console: whose width decides whether there are bars.
    """

    def __init__(self, console: Console) -> None:
        cut = Column(no_wrap=True, overflow="ellipsis")
        bars = [BarColumn(10 if console.width < 72 else 24)] * (console.width >= NARROW)
        name = TextColumn("{task.description}", markup=False, table_column=cut)
        words = Words(table_column=Column(no_wrap=True, overflow="ellipsis"))
        super().__init__(name, *bars, words, console=console, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Those that have lasted a while."""
        now = time.monotonic()
        return super().make_tasks_table(
            [task for task in tasks if now - task.fields["began"] >= task.fields["late"]]
        )

    def show(
        self, what: str, total: int, words: Callable[[], str], *, late: float | None = None
    ) -> TaskID:
        """Adds a line; its number.

        Args:
          what: stands first.
          total: units; 0 if they cannot be counted.
          words: gives what stands behind the bar.
          late: seconds after which it shows; None is `LATE`.
        """
        fields = {"words": words, "began": time.monotonic(), "late": LATE if late is None else late}
        return self.add_task(what, total=total or None, **fields)


_LOCK = threading.RLock()
_shared: list[Board | None] = []  # of the run that is going on; None: nothing is shown
_own: dict[int, tuple[Board, int]] = {}  # by stream: its lines, and how many tasks have one
_took: dict[str, float] = {}  # seconds that a task took when it was last done


@contextlib.contextmanager
def sharing(board: Board | None) -> Iterator[None]:
    """Lets every task of this process be a line of a board meanwhile; None: of nothing."""
    _shared.append(board)
    try:
        yield
    finally:
        _shared.remove(board)


def hushed(quiet: bool) -> contextlib.AbstractContextManager[None]:
    """Shows no task meanwhile, if a command was told to be quiet."""
    return sharing(None) if quiet else contextlib.nullcontext()


def show_cursor() -> None:
    """Gives a terminal its cursor back, whose lines a process that ends at once leaves behind.

    It waits for no lock, which whoever draws may hold.
    """
    for board in [*_shared, *(own for own, _ in _own.values())]:
        if board is not None and board.console.is_terminal:
            with contextlib.suppress(OSError, ValueError):  # it is closed
                os.write(board.console.file.fileno(), b"\x1b[?25h")


class Progress:
    """One line on a terminal, which goes when the task ends; elsewhere a plain line now and then.

    Args:
      what: is going on.
      total: units of it; 0 if they cannot be counted: it is only shown on the board of a run.
      unit: their name.
      stream: where to; None is the standard error output, or the board of a run.
      quiet: says nothing, as all processes but the first.
      at_once: units that are done together; the first of them says nothing of the time per unit.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
        at_once: int = 1,
    ) -> None:
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        self._at_once, self._waiting, self._free = at_once, 0, 0
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet or _shared[-1:] == [None]
        self._board: Board | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> "Progress":
        """Starts the clock."""
        self._began = self._moved = self._told = time.monotonic()
        if not self._quiet and (self._total or _shared):
            self._board = _board_on(self._stream)
        if self._board is not None:
            self._task = self._board.show(self._what, self._total, self._words)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clears the line."""
        if kind is None:
            _took[self._what] = time.monotonic() - self._began
        self._end()

    def _end(self) -> None:
        with self._lock:
            board, self._board = self._board, None
        if board is not None:
            board.remove_task(self._task)
            _leave(board)

    def advance(self, count: int = 1) -> None:
        """So many more units are done; any thread may say so."""
        with self._lock:
            self._waiting += count
            if self._waiting < min(self._at_once, self._total - self._done):
                return
            self._done, self._waiting = self._done + self._waiting, 0
            self._moved = now = time.monotonic()
            if self._board is not None:
                self._board.update(self._task, completed=self._done)
            elif not self._quiet and now - self._told >= EVERY and self._done < self._total:
                self._told = now
                print(f"{self._what}: {self._words()}", file=self._stream, flush=True)
        if self._done >= self._total:
            self._end()

    def skip(self, count: int = 1) -> None:
        """So many more are done, and took no time, as an answer that was kept: `advance` else."""
        with self._lock:
            self._free += count
        self.advance(count)

    def _words(self) -> str:
        now = time.monotonic()
        if not self._total:
            last, passed = _took.get(self._what, 0.0), now - self._began
            return f"about {duration(last - passed)} left" if passed < last else duration(passed)
        words = f"{self._done:,} of {self._total:,} {self._unit}"
        measured = self._done - self._free
        if not 0 < measured or self._done >= self._total:
            return words
        one, left = (self._moved - self._began) / measured, self._total - self._done
        seconds = max(one * left - (now - self._moved), one * (left - 1), 1.0)
        return f"{words}, about {duration(seconds)} left"


def waiting(what: str) -> Progress:
    """The line of a task without parts; how long it takes is known once it was done before."""
    return Progress(what, 0, "")


def _board_on(stream: TextIO) -> Board | None:
    """The board that a task has its line on, the run's or the stream's own; None: a plain log."""
    with _LOCK:
        if _shared:
            return _shared[-1]
        if not stream.isatty():
            return None
        key = id(stream)
        board, users = _own.get(key, (None, 0))
        if board is None:
            board = Board(Console(file=stream))
            board.start()
        _own[key] = board, users + 1
        return board


def _leave(board: Board) -> None:
    """Stops a stream's own board behind its last task."""
    with _LOCK:
        for key, (own, users) in [*_own.items()]:
            if own is board and users > 1:
                _own[key] = own, users - 1
            elif own is board:
                del _own[key]
                board.stop()


def duration(seconds: float) -> str:
    """A time as a person says it.

    Example:
      >>> duration(42), duration(100), duration(5400)
      ('42 s', '2 min', '1 h 30 min')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A time that was measured, to the second, or from an hour on to the minute.

    Example:
      >>> clock(42.4), clock(252.4), clock(7300)
      ('42 s', '4 min 12 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
