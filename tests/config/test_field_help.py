"""The comment behind a field is its help text, and its type is told in words."""

import re

import pytest

from cotjax.config.field_help import texts, type_of
from cotjax.config.whole import KEYS, SECTIONS


@pytest.mark.parametrize("key", [*KEYS, *SECTIONS])
def test_every_setting_and_section_has_a_sentence(key):
    text = texts()[key]
    assert re.search(r"\w+ \w+", text) and text.endswith((".", ")")), text


@pytest.mark.parametrize("key", [key for key in KEYS if key != "stages"])
def test_every_setting_says_what_it_takes(key):
    assert type_of(key)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("steps", "whole number >= 1"),
        ("name", "text"),
        ("resume", "true | false"),
        ("policy.eps", "number >= 0 | auto"),
        ("policy.ddof", "auto | 0 | 1"),
        ("rollout.stop", "text …"),
        ("data.columns", "{ name = value }"),
        ("reward.function", "bridge | module:name"),
    ],
)
def test_types_in_words(key, words):
    assert type_of(key) == words
