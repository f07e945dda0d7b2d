"""The one exception for bad input: a message, and what a run may do about it."""

import pickle

import pytest

from cotjax import errors
from cotjax.errors import InputError, NothingToDo


def test_every_error_of_the_package_is_bad_input_and_a_sentence():
    own = [one for one in vars(errors).values() if isinstance(one, type)]
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
