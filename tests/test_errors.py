"""The one exception for bad input: a message, and what a run may do about it."""

import pickle

import pytest

from cotjax import errors
from cotjax.errors import InputError, NothingToDo, Stopped, visible


def test_a_signal_is_no_error_and_has_the_status_that_shells_know():
    for number, status in ((15, 143), (2, 130)):
        stopped = Stopped(number).and_then("--resume goes on.")
        assert isinstance(stopped, KeyboardInterrupt) and stopped.status == status
    assert str(stopped) == "stopped by SIGINT. --resume goes on."


def test_every_error_of_the_package_is_bad_input_and_a_sentence():
    own = [one for one in vars(errors).values() if isinstance(one, type) and one is not Stopped]
    assert InputError in own and all(issubclass(one, InputError) for one in own)
    assert all(one.__doc__ for one in own)


def test_a_message_is_what_was_said():
    assert str(InputError("steps = 0: out of range.")) == "steps = 0: out of range."


def test_a_stage_without_work_is_an_error_that_a_list_may_pass_over():
    with pytest.raises(InputError, match="nothing to rewrite"):
        raise NothingToDo("nothing to rewrite")


@pytest.mark.parametrize("error", [InputError("a"), NothingToDo("b")])
def test_an_error_travels_between_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)


def test_what_a_person_sees_moves_no_cursor_and_can_be_written_in_every_encoding_of_unicode():
    for code in range(0x11000):
        shown = visible(f"a{chr(code)}b")
        assert shown.encode("utf-8") and (shown.isprintable() or shown[1] in "\n\t" or code > 0x9F)
    assert visible("a\x1b[31mb\x00\x85\u2028\u202e\ud800\r") == (
        "a\\x1b[31mb\\x00\\x85\\u2028\\u202e\\ud800\\r"
    )
    assert visible("é 步 \U0001f600\n\tx") == "é 步 \U0001f600\n\tx"
