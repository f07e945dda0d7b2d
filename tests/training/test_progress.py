"""A long task says how far it is: in one line on a terminal, in a plain line now and then else."""

import io

from cotjax.training import progress
from cotjax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, monkeypatch, seconds, **more):
    """Four problems, each of some seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("evaluation", 4, "problems", stream=stream, **more) as told:
        for _ in range(4):
            now[0] += seconds
            told.advance()
    return stream.getvalue()


def test_a_log_gets_a_plain_line_now_and_then_with_the_time_that_is_left(monkeypatch):
    said = run(io.StringIO(), monkeypatch, 15)
    assert said == "evaluation: 2 of 4 problems, about 30 s left\n"
    said = run(io.StringIO(), monkeypatch, 600).splitlines()
    assert said[0] == "evaluation: 1 of 4 problems, about 30 min left" and len(said) == 3


def test_what_is_soon_done_or_another_process_says_nothing(monkeypatch):
    assert run(io.StringIO(), monkeypatch, 1) == ""
    assert run(io.StringIO(), monkeypatch, 600, quiet=True) == ""
    assert run(Terminal(), monkeypatch, 600, quiet=True) == ""


def test_a_terminal_has_one_line_which_goes_at_the_end(monkeypatch):
    said = run(Terminal(), monkeypatch, 600)
    assert "evaluation" in said and "of 4 problems" in said
    assert said.endswith("\x1b[2K")  # the line is cleared
