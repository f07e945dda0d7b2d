"""What a terminal shows: a table in place, no line wider than it, no unwanted colour."""

import contextlib
import fcntl
import io
import math
import os
import pty
import re
import struct
import termios
import threading
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from cotjax.interfaces import Column
from cotjax.progress import Progress
from cotjax.training import live
from cotjax.training.live import LivePrinter, LiveTable, sparkline

COLUMNS = (
    Column("accuracy", "", "accuracy", "{:.1%}", 8),
    Column("length", "tokens", "completion_tokens", "{:.1f}", 7),
    Column("rollout", "tokens/s", "rollout_tok_s", "{:,.0f}", 8),
    Column("step", "s", "step_s", "{:.2f}", 6),
)
NUMBERS = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "tokens": 9.0, "problems": 4}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def values(step):
    return {"accuracy": step / 10, "completion_tokens": 100.0 - step, "rollout_tok_s": 28617.0,
            "step_s": math.nan}  # fmt: skip


def table(steps, width=100, **more):
    of = LiveTable(COLUMNS, 10, **more)
    for step in range(1, steps + 1):
        of.add(step, values(step))
    console = Console(file=io.StringIO(), width=width)
    console.print(of.rows(width, curves=True))
    return of, [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_first_and_the_newest_values_and_the_curve_between():
    _, (steps, accuracy, length, rollout, time_) = table(8)
    assert steps.split() == ["step", "1", "8"]
    assert accuracy.split() == ["accuracy", "10.0%", "80.0%", "▁▂▃▄▅▆▇█"]
    assert length.split() == ["length", "99.0", "92.0", "tokens", "█▇▆▅▄▃▂▁"]
    assert rollout.split()[:4] == ["rollout", "28,617", "28,617", "tokens/s"]
    assert time_.split() == ["time", "-", "-", "s"]


@pytest.mark.parametrize("width", [100, 80, 60, 40, 20, 10, 2])
def test_it_fits_and_tells_less_where_there_is_less_room(width):
    _, lines = table(8, width)
    assert max(map(cell_len, lines)) <= width
    shown = "\n".join(lines)
    assert ("▁" in shown) == (width >= live.MEDIUM)
    assert ("10.0%" in shown) == (width >= live.SMALL)
    assert ("80.0%" in shown) == (width >= 20)


def test_a_long_run_keeps_no_more_than_a_curve_needs(monkeypatch):
    monkeypatch.setattr(live, "MOST_POINTS", 16)
    of = LiveTable(COLUMNS, 1000)
    for step in range(1, 1001):
        of.add(step, values(step))
    assert 8 <= len(of._curve) <= 16
    curve = [one["accuracy"] for one in of._curve]
    gaps = {round(b - a, 6) for a, b in zip(curve, curve[1:], strict=False)}
    assert curve[0] == 0.1 and len(gaps) == 1, "evenly over the run"


def test_time_that_is_left_is_measured_before_it_is_said(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    of = LiveTable(COLUMNS, 10)
    assert of.words() == "0 of 10 steps"
    of.add(1, {})
    assert of.words() == "1 of 10 steps"
    now[0] += 6
    of.add(2, {})
    assert of.words() == "2 of 10 steps, about 48 s left"
    now[0] += 3
    assert of.words() == "2 of 10 steps, about 45 s left"
    of.add(10, {})
    assert of.words() == "10 of 10 steps, 9 s"


def test_a_budget_of_tokens_is_what_the_time_left_is_of(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    of = LiveTable(COLUMNS, 10**6, budget=100)
    for step in (1, 2):
        now[0] += 5
        of.add(step, {"used_tokens": 25.0 * step})
    assert of.words() == "step 2, 50% of the tokens, about 10 s left"


def test_a_curve_has_gaps_and_no_mountain_of_a_rounding():
    assert sparkline([], 5) == "" == sparkline([1.0, 2.0], 0)
    assert sparkline([math.nan] * 3, 3) == "   "
    assert sparkline([0.7, 0.7 + 1e-12, 0.7], 3) == "▁▁▁"
    assert sparkline(range(1000), 4) == "▁▃▆█"


@contextlib.contextmanager
def terminal(columns, rows=40):
    """A pseudo-terminal: a file that is one, and what was written to it so far."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen = bytearray()

    def read():
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                seen.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as file:
        yield file, lambda: seen.decode("utf-8", "replace")
    time.sleep(0.1)
    os.close(master)


def show(columns, monkeypatch):
    """A short run on a terminal; everything that was written."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("cotjax.progress.LATE", 0.0)
    monkeypatch.setenv("COLUMNS", str(columns))  # rich asks the process's own streams
    monkeypatch.setenv("LINES", "40")
    with terminal(columns) as (file, seen):
        printer = LivePrinter(Console(file=file, highlight=False, markup=False))
        assert printer.console.width == columns and printer.console.is_terminal
        with printer.running():
            with printer.stage():
                with Progress("loading a student", 3, "tensors") as loading:
                    loading.advance()
                printer.columns(COLUMNS, 3)
                printer.evaluation(0, "before", NUMBERS)
                for step in (1, 2, 3):
                    printer.step(step, values(step))
                    time.sleep(0.3)  # longer than the time between two drawings
                printer.alarm(3, "no signal", "all are wrong")
            printer.end({}, lambda console: console.print("details"), "It rose.", "See it")
        time.sleep(0.2)
        return seen()


@pytest.mark.parametrize("columns", [100, 80, 60, 20])
def test_no_line_is_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = show(columns, monkeypatch)
    plain = ESCAPES.sub("", shown)
    lines = re.split(r"[\r\n]+", plain)
    assert max(map(cell_len, lines)) <= columns, lines
    words = " ".join(plain.split())
    for part in ("before: accuracy", "details", "It rose."):
        assert part in words
    assert "3 of 3 steps" in plain or columns == 20
    assert re.search(r"accuracy +(10.0% +)?30.0%", plain)
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor comes back"
    assert "\x1b[36m" in shown or "36" in "".join(ESCAPES.findall(shown))


def test_no_color_leaves_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = show(80, monkeypatch)
    colours = [one for one in re.findall(r"\x1b\[([0-9;]*)m", shown)
               if re.search(r"(^|;)(3[0-7]|38|9[0-7])(;|$)", one)]  # fmt: skip
    assert not colours and "30.0%" in shown
