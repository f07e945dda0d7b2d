"""A session at a terminal: keys that end an answer or all, times, and what stands beside what."""

import io

import pytest
from rich.console import Console

from cotjax.errors import InputError
from cotjax.run.chat import Clock, ask_lines, chat, pieces, show_answer, show_side_by_side


def console(width=60):
    return Console(file=io.StringIO(), width=width, highlight=False, markup=False)


def keys(*pressed):
    """A keyboard: lines, and exceptions where keys are pressed that raise; then Ctrl-D."""
    left = iter(pressed)

    def read(prompt):
        key = next(left, EOFError)
        if isinstance(key, str):
            return key
        raise key

    return read


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_session():
    asked, out = [], console()

    def ask(question):
        asked.append(question)
        if question == "long":
            raise KeyboardInterrupt
        if question == "wrong":
            raise InputError("the prompt has 3 tokens\\x1b")

    chat(ask, out, keys("one", KeyboardInterrupt, "  ", "long", "wrong", "two"))
    assert asked == ["one", "long", "wrong", "two"]
    said = out.file.getvalue()
    assert "stopped" in said and "error: the prompt has 3 tokens" in said


def test_lines_are_asked_one_by_one(capsys):
    ask_lines(print, ["one", "", " two "])
    assert capsys.readouterr().out == "one\n\ntwo\n"
    with pytest.raises(InputError, match="the prompt is empty"):
        ask_lines(print, ["", " "])


def test_a_single_completion_comes_in_pieces_and_half_a_letter_waits():
    assert [*pieces([["a"], ["a\ufffd"], ["aé\x1b"]], 1)] == ["a", "", "é\\x1b", ""]
    assert [*pieces([["a", "b"], ["aa", "bb\0"]], 2)] == ["[1] aa\n\n[2] bb\\x00"]


def test_the_first_token_is_timed_also_of_an_answer_that_is_stopped(capsys):
    def texts():
        yield ["a"]
        raise KeyboardInterrupt

    out = console()
    with pytest.raises(KeyboardInterrupt):
        show_answer(texts(), 1, out, clock=Clock(note=", at first"))
    assert capsys.readouterr().out == "a"
    told = out.file.getvalue()
    assert told.startswith("first token 0.0") and told.endswith("stopped, at first\n")
    out = console()
    show_answer([["a"]], 1, out, clock=None)
    assert out.file.getvalue() == "" and str(Clock()) == ""


@pytest.mark.parametrize("width", [100, 60, 20])
def test_answers_stand_side_by_side_or_below_each_other(width):
    out = console(width)
    long = "word " * 30
    answers = [[["a"], [f"{long}\x1b[2J"]], [[f"right\n{'x' * 70}"]]]
    show_side_by_side(["base", "runs/a-run"], answers, out, clocks=[Clock(), Clock()])
    lines = out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b[2J" not in out.file.getvalue() and "\\x1b[2J" in out.file.getvalue()
    side = [line.split() for line in lines]
    assert (["base", "runs/a-run"] in side) == (width >= 40)
    told = " ".join(" ".join(words) for words in side)
    assert told.count("first") == 2


def test_an_answer_that_is_being_written_is_not_called_stopped():
    clock = Clock()
    texts = clock.watch([["a"], ["ab"]])
    next(iter(texts))
    assert str(clock).startswith("first token 0.0") and "stopped" not in str(clock)
    clock.over = True
    assert str(clock).endswith(", stopped")


def test_an_answer_that_is_stopped_leaves_what_is_there():
    def texts():
        yield ["half"]
        raise KeyboardInterrupt

    out = console()
    with pytest.raises(KeyboardInterrupt):
        show_side_by_side(["a", "b"], [texts(), [["never"]]], out, clocks=[])
    assert "half" in out.file.getvalue() and "never" not in out.file.getvalue()
