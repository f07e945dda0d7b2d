"""A long task says how far it is: in one line on a terminal, in a plain line now and then else."""

import io
import os
import threading
import time

import pytest
from rich.console import Console

from cotjax import progress
from cotjax.progress import Board, Progress, clock, hushed, sharing, show_cursor, waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _nothing_was_measured(monkeypatch):
    monkeypatch.setattr(progress, "_took", {})


def run(stream, monkeypatch, seconds, **more):
    """Four problems, each of some seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("evaluation", 4, "problems", stream=stream, **more) as told:
        for _ in range(4):
            now[0] += seconds
            told.advance()
            if told._board is not None:
                told._board.refresh()
    return stream.getvalue()


def test_a_log_gets_a_plain_line_now_and_then_with_the_time_that_is_left(monkeypatch):
    said = run(io.StringIO(), monkeypatch, 15)
    assert said == "evaluation: 2 of 4 problems, about 30 s left\n"
    said = run(io.StringIO(), monkeypatch, 600).splitlines()
    assert said[0] == "evaluation: 1 of 4 problems, about 30 min left" and len(said) == 3


def test_units_that_are_done_together_count_together(monkeypatch):
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("evaluation", 10, "problems", stream=out, at_once=4) as told:
        for batch in (4, 4, 2):
            now[0] += 40
            for _ in range(batch):
                told.advance()
    assert out.getvalue().splitlines() == [
        "evaluation: 4 of 10 problems, about 1 min left",
        "evaluation: 8 of 10 problems, about 20 s left",
    ]
    assert told._done == 10


def test_what_took_no_time_says_nothing_of_the_time_that_is_left(monkeypatch):
    now, out = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("sampling the teacher", 10, "questions", stream=out) as told:
        for _ in range(6):
            told.skip()
        assert told._words() == "6 of 10 questions"
        now[0] += 30
        told.advance()
    assert out.getvalue() == "sampling the teacher: 7 of 10 questions, about 2 min left\n"


def test_what_is_soon_done_or_another_process_says_nothing(monkeypatch):
    assert run(io.StringIO(), monkeypatch, 1) == ""
    assert run(io.StringIO(), monkeypatch, 600, quiet=True) == ""
    assert run(Terminal(), monkeypatch, 600, quiet=True) == ""
    with sharing(None):
        assert run(Terminal(), monkeypatch, 600) == run(io.StringIO(), monkeypatch, 600) == ""


def test_a_quiet_command_shows_none():
    with hushed(quiet=True):
        assert Progress("evaluation", 4, "problems")._quiet
    with hushed(quiet=False):
        assert not Progress("evaluation", 4, "problems")._quiet


def test_a_terminal_has_one_line_which_goes_at_the_end(monkeypatch):
    said = run(Terminal(), monkeypatch, 600)
    assert "evaluation" in said and "2 of 4 problems, about 20 min left" in said
    assert said.endswith("\r\x1b[2K\x1b[?25h\r")  # the line is cleared, and the cursor is back


def test_what_is_done_within_a_second_does_not_flash_up():
    out = Terminal()
    with Progress("evaluation", 1, "problems", stream=out) as told:
        told.advance()
    assert "evaluation" not in out.getvalue()


def board(width=80, **more):
    out = Terminal()
    return Board(Console(file=out, width=width, force_terminal=True, **more)), out


def drawn(of, width):
    """What a board shows now."""
    console = Console(file=io.StringIO(), width=width)
    console.print(of.get_renderable())
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


@pytest.mark.parametrize("width", [100, 80, 60, 20, 8])
def test_a_line_is_never_wider_than_the_terminal(width):
    of, _ = board(width)
    words = lambda: "150 of 300 tensors, about 2 min left"  # noqa: E731
    task = of.show("loading" if width > 50 else "loading a long name", 300, words, late=0)
    of.update(task, completed=150)
    (line,) = drawn(of, width)
    assert len(line) <= width
    assert ("━" in line) == (width >= progress.NARROW)


def test_the_tasks_of_a_run_stand_on_its_board_together(monkeypatch):
    monkeypatch.setattr(progress, "LATE", 0.0)
    of, _ = board()
    with (
        sharing(of),
        Progress("compiling", 3, "programs") as one,
        Progress("loading", 2, "tensors"),
    ):
        one.advance()
        first, second = drawn(of, 80)
        assert first.startswith("compiling") and "1 of 3 programs, about 1 s left" in first
        assert second.startswith("loading") and "0 of 2 tensors" in second
        one.advance(2)
        assert [line.split()[0] for line in drawn(of, 80)] == ["loading"]
    assert drawn(of, 80) == []


def test_two_tasks_without_a_run_share_a_line_each_and_the_last_stops_them(monkeypatch):
    out = Terminal()
    with Progress("one", 2, "a", stream=out) as one:
        with Progress("two", 2, "b", stream=out) as two:
            assert one._board is two._board is not None
        assert one._board.live.is_started
        last = one._board
    assert not last.live.is_started and progress._own == {}


def test_what_cannot_be_counted_says_how_long_it_took_the_last_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    of, _ = board()
    with sharing(of):
        with waiting("saving"):
            now[0] += 8
            assert drawn(of, 80)[0].endswith(" 8 s")
        with waiting("saving"):
            now[0] += 5
            assert drawn(of, 80)[0].endswith("about 3 s left")
            now[0] += 5
            assert drawn(of, 80)[0].endswith(" 10 s")


def test_what_cannot_be_counted_draws_on_no_terminal_of_its_own():
    out = Terminal()
    with Progress("saving", 0, "", stream=out) as told:
        assert told._board is None
    assert out.getvalue() == ""


def test_threads_may_count(monkeypatch):
    of, _ = board()
    with sharing(of), Progress("compiling", 1000, "programs") as told:
        threads = [
            threading.Thread(target=lambda: [told.advance() for _ in range(50)]) for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told._done == 1000


def test_a_process_that_ends_at_once_gives_the_cursor_back():
    reads, writes = os.pipe()
    with os.fdopen(writes, "w") as file, sharing(Board(Console(file=file, force_terminal=True))):
        show_cursor()
    assert os.read(reads, 100) == b"\x1b[?25h"
    os.close(reads)
    with sharing(board()[0]):
        show_cursor()  # of a text in memory nothing is to be given back


def test_time_that_is_left_goes_down_while_a_unit_takes_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("evaluation", 4, "problems", stream=io.StringIO()) as told:
        now[0] = 10
        told.advance()
        assert told._words().endswith("about 30 s left")
        now[0] = 15
        assert told._words().endswith("about 25 s left")
        now[0] = 100
        assert told._words().endswith("about 20 s left"), "three are left, and one is under way"


def test_measured_times():
    assert [clock(one) for one in (0, 59.6, 3599, 7300)] == [
        *("0 s", "1 min 0 s", "59 min 59 s", "2 h 1 min"),
    ]
    assert time.monotonic() > 0
