"""Sections about teachers and the order of the data: explained, and within their ranges."""

import dataclasses
import re

import pytest

from cotjax.config import load, teaching
from cotjax.config.whole import Config
from cotjax.errors import InputError
from tests.config.test_sections import lines_of

CLASSES = [
    one
    for one in vars(teaching).values()
    if dataclasses.is_dataclass(one) and one.__module__ == teaching.__name__
]


@pytest.mark.parametrize("section", CLASSES, ids=lambda one: one.__name__)
def test_every_setting_is_explained_by_a_sentence(section):
    comments = lines_of(section)
    for field in dataclasses.fields(section):
        assert re.search(r"\w+ \w+", comments[field.name]), field.name


@pytest.mark.parametrize("section", CLASSES, ids=lambda one: one.__name__)
def test_a_section_is_one_of_a_whole_config(section):
    (own,) = (value for value in vars(Config()).values() if type(value) is section)
    assert own == section()


@pytest.mark.parametrize(
    "flag",
    [
        "--distill.alpha=1.5",
        "--distill.temperature=0",
        "--curriculum.replay=1",
        "--curriculum.buckets=0",
        "--teachers.top-k=0",
        "--curriculum.min-progress=-0.1",
    ],
)
def test_values_outside_of_their_range_are_refused(flag):
    with pytest.raises(InputError, match="out of range. Set "):
        load(["--stage=distill", "--teachers.paths", "a", flag])
