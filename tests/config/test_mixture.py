"""Entries of a mixture: a source, its path if it has one, and a weight."""

import pytest

from cotjax.config.mixture import parse_mixture
from cotjax.errors import InputError


def test_a_path_may_hold_an_equals_sign_and_spaces_are_free():
    assert parse_mixture("jsonl:a=b.jsonl=2,  problems=0.5 ") == [
        ("jsonl", "a=b.jsonl", 2.0),
        ("problems", "", 0.5),
    ]


@pytest.mark.parametrize("text", ["", "problems", "=1", "problems=0", "problems=-1", "problems=x"])
def test_an_entry_without_a_source_or_a_weight_is_refused(text):
    with pytest.raises(InputError, match="needs a source and a weight > 0"):
        parse_mixture(text)
