"""Sections of what is trained on what: their defaults are valid and their settings explained."""

import dataclasses
import inspect
import re

import pytest

from cotjax.config import sections
from cotjax.config.checks import validate
from cotjax.config.whole import Config

CLASSES = [
    one
    for one in vars(sections).values()
    if dataclasses.is_dataclass(one) and one.__module__ == sections.__name__
]


def lines_of(section):
    """Name -> the comment behind its field."""
    found = re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(section), re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("section", CLASSES, ids=lambda one: one.__name__)
def test_every_setting_is_explained_by_a_sentence(section):
    comments = lines_of(section)
    for field in dataclasses.fields(section):
        assert re.search(r"\w+ \w+", comments[field.name]), field.name
    assert section.__doc__ and section.__doc__.endswith(".")


@pytest.mark.parametrize("section", CLASSES, ids=lambda one: one.__name__)
def test_a_section_is_frozen_and_its_defaults_are_those_of_a_whole_config(section):
    (own,) = (value for value in vars(Config()).values() if type(value) is section)
    assert own == section()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(own, dataclasses.fields(section)[0].name, None)


def test_the_defaults_agree_with_each_other():
    validate(Config())
