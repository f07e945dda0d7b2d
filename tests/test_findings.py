"""A check gives words, an object or an error, and each becomes a finding or none."""

import pytest

from cotjax.errors import InputError
from cotjax.findings import Examination, Finding


def fail():
    raise InputError("it broke")


def test_words_are_ok_an_object_is_kept_and_an_error_is_a_failure():
    look = Examination()
    assert list(look.check("a", lambda: "well")) == [Finding("OK", "a", "well")]
    assert list(look.check("b", lambda: 7)) == [] and look.got == 7
    assert not look.failed
    assert list(look.check("c", fail)) == [Finding("FAIL", "c", "it broke")]
    assert look.failed and look.got is None


def test_sentences_are_notes():
    found = Examination().notes("a", ["one", "two"])
    assert list(found) == [Finding("NOTE", "a", "one"), Finding("NOTE", "a", "two")]


def test_what_is_no_bad_input_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        list(Examination().check("a", lambda: 1 / 0))
