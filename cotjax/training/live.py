"""What a run shows on a terminal: a table that changes in place, and below it a line a task.

    step          1       37
    accuracy  65.6%    84.4%            ▁▂▃▃▅▆▇▇█
    length    112.3     71.8  tokens    █▇▆▅▄▃▂▂▁
    training  ━━━━━━━━━━────  37 of 60 steps, about 40 s left

Evaluations, alarms and notes stand above it and stay.
"""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cotjax.errors import visible
from cotjax.interfaces import Column
from cotjax.progress import Board, duration, sharing
from cotjax.training.metrics import cell
from cotjax.training.printer import Printer, Show

A_SECOND = 4  # times that the screen is drawn
RECENT = 20  # steps whose time says how long the rest will take
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = 24  # characters of a curve, at most
MOST_POINTS = 960  # steps that are kept for it
MEDIUM, SMALL = 56, 34  # columns of a terminal below which there are no curves, only newest values


class LiveTable:
    """A stage's metrics: the first value, the newest, and the curve between them.

    Args:
      columns: the metrics, from top to bottom.
      steps: total steps of the run.
      budget: tokens that end the run; 0 = steps end it.
    """

    def __init__(self, columns: Sequence[Column], steps: int, budget: int = 0) -> None:
        self._columns, self._steps, self._budget = tuple(columns), steps, budget
        self._first = self._last = 0
        self._newest: dict[str, float] = {}
        self._curve: list[dict[str, float]] = []  # each so many-th step's metrics
        self._every, self._count = 1, 0
        self._share = 0.0
        self._began = time.monotonic()
        self._marks = collections.deque[tuple[float, float]](maxlen=RECENT + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One step more."""
        names = [column.metric for column in self._columns]
        self._newest = {name: float(values.get(name, math.nan)) for name in names}
        if self._count % self._every == 0:
            self._curve.append(self._newest)
        if len(self._curve) > MOST_POINTS:
            self._curve, self._every = self._curve[::2], 2 * self._every
        self._first, self._last = self._first or step, step
        self._count += 1
        used = values.get("used_tokens", 0.0) / self._budget if self._budget else 0.0
        self._share = min(max(step / self._steps, used), 1.0)
        self._marks.append((self._share, time.monotonic()))

    @property
    def share(self) -> float:
        """How much of the run is done, 0–1."""
        return self._share

    def words(self) -> str:
        """How far the run is, and how long its steps will still take, once two are measured."""
        step = self._last
        told = f"{step:,} of {self._steps:,} steps"
        if self._budget:
            told = f"step {step:,}, {self._share:.0%} of the tokens"
        if self._share >= 1:
            return f"{told}, {duration(self._marks[-1][1] - self._began)}"
        if len(self._marks) < 2:
            return told
        (first, began), (last, ended) = self._marks[0], self._marks[-1]
        pace = (ended - began) / max(last - first, 1e-9)
        left = pace * (1 - last) - (time.monotonic() - ended)
        return f"{told}, about {duration(max(left, 1.0))} left"

    def rows(self, width: int, *, curves: bool) -> Table:
        """The table for a terminal of some columns.

        Args:
          width: of the terminal.
          curves: whether it can show them.
        """
        table = Table.grid(padding=(0, 2))
        first = width >= SMALL
        curve = min(CURVE, width - 2 - self._width(first=True)) if width >= MEDIUM else 0
        table.add_column(no_wrap=True, overflow="ellipsis", style="cyan")
        for style in ("dim", "bold") if first else ("bold",):
            table.add_column(no_wrap=True, justify="right", style=style)
        if first:
            table.add_column(no_wrap=True, style="dim")
            table.add_column(no_wrap=True, style="cyan")
        ends = [self._first, self._last] if first else [self._last]
        table.add_row("step", *(Text(f"{one:,}", style="not bold dim") for one in ends))
        for column in self._columns:
            values = [self._curve[0], self._newest] if first else [self._newest]
            cells = [cell(column, one) for one in values]
            if first:
                drawn = curve >= 4 and curves and self._count > 1
                series = [one[column.metric] for one in self._curve] if drawn else []
                cells += [column.unit, sparkline(series, curve)]
            title = "time" if column.title == "step" else column.title
            table.add_row(title, *cells)
        return table

    def _width(self, *, first: bool) -> int:
        """Columns that the table takes beside its curves."""
        cells = max((column.width for column in self._columns), default=0)
        titles, units = (
            max((len(getattr(one, name)) for one in self._columns), default=0)
            for name in ("title", "unit")
        )
        return titles + (2 * cells + units if first else cells) + 8


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve of characters, each the mean of its part of the values; a gap where none is finite.

    Args:
      values: from first to last.
      width: characters, at most.

    Example:
      >>> sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8), sparkline([1.0, float("nan"), 2.0], 3)
      ('▁▂▃▄▅▆▇█', '▁ █')
    """
    size = min(width, len(values))
    means: list[float] = []
    for place in range(size):
        part = values[place * len(values) // size : (place + 1) * len(values) // size]
        finite = [one for one in part if math.isfinite(one)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    known = [one for one in means if math.isfinite(one)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    flat = high - low <= 1e-6 * max(abs(low), abs(high))  # or a rounding would be a mountain
    scale = 0.0 if flat else (len(BLOCKS) - 1) / (high - low)
    return "".join(
        BLOCKS[round((one - low) * scale)] if math.isfinite(one) else " " for one in means
    )


class LivePrinter(Printer):
    """Says everything on a terminal, in lines as wide as that is.

    Args:
      console: of the terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live_table: LiveTable | None = None
        self._board: Board | None = None

    @contextlib.contextmanager
    def stage(self, name: str = "") -> Iterator[None]:
        """A stage; the table stays when it ends."""
        del name
        self._live_table, self._board = None, Board(self.console)
        with (
            sharing(self._board),
            Live(
                get_renderable=self._rendered,
                console=self.console,
                refresh_per_second=A_SECOND,
                redirect_stderr=sys.stderr.isatty(),
            ),
        ):
            yield

    def _rendered(self) -> RenderableType:
        board = self._board
        assert board is not None, "there is one while a stage is going on"
        table = self._live_table
        curves = not self.console.options.ascii_only
        above: list[RenderableType] = []
        if table and table.share:
            above = ["", table.rows(self.console.width, curves=curves)]
        return Group(*above, board.get_renderable())

    def columns(self, columns: Sequence[Column], steps: int, *, budget: int = 0) -> None:
        """Begins the table."""
        assert self._board is not None, "a stage is going on"
        self._live_table = LiveTable(columns, steps, budget)
        self._task = self._board.show("training", 1, self._live_table.words, late=0.0)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Changes the table."""
        if self._live_table is not None and self._board is not None:
            self._live_table.add(step, values)
            self._board.update(self._task, completed=self._live_table.share)

    def end(self, result: Mapping[str, Any], details: Show, changed: str, where: str) -> None:
        """Details, what changed, and where everything is, in a line that can be copied whole."""
        details(self.console)
        self.console.print()
        self.console.print(Text(visible(changed), style="bold"))
        self.console.print(Text(visible(where)), soft_wrap=True)
