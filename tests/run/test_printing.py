"""Which printer a run has."""

import io

import pytest

from cotjax.run import printing
from cotjax.run.printing import open_printer
from cotjax.training.live import LivePrinter
from cotjax.training.printer import JsonPrinter, Printer, QuietPrinter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def kind(monkeypatch, stream, how="text"):
    monkeypatch.setattr("sys.stdout", stream)
    return type(open_printer(how))


def test_a_terminal_is_drawn_on_and_a_log_gets_lines(monkeypatch):
    assert kind(monkeypatch, Terminal()) is LivePrinter
    assert kind(monkeypatch, io.StringIO()) is Printer


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert kind(monkeypatch, Terminal()) is Printer


def test_colours_by_force_make_no_terminal_of_a_file(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert kind(monkeypatch, io.StringIO()) is Printer


def test_what_was_asked_for_is_the_same_on_a_terminal(monkeypatch):
    for stream in (Terminal(), io.StringIO()):
        assert kind(monkeypatch, stream, "quiet") is QuietPrinter
        assert kind(monkeypatch, stream, "json") is JsonPrinter


def test_only_the_first_process_says_anything(monkeypatch, capsys):
    monkeypatch.setattr(printing.processes, "is_first", lambda: False)
    for how in ("text", "quiet", "json"):
        printer = open_printer(how)
        printer.warn("a warning")
        printer.end({}, lambda console: None, "the end", "here")
    assert capsys.readouterr().out == ""
