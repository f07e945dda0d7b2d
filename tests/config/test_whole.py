"""All settings in one frozen dataclass, and the keys that they have."""

import dataclasses

import pytest

from cotjax.config import Config, load
from cotjax.config.whole import KEYS, SECTIONS, every_setting
from cotjax.errors import InputError


def test_a_config_cannot_change_after_load():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load([]).steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_keys_are_the_settings_and_sections_hold_them():
    assert "rollout.group_size" in KEYS and "rollout" in SECTIONS and "rollout" not in KEYS
    assert len(set(KEYS)) == len(KEYS) and not set(KEYS) & set(SECTIONS)
    assert all("." not in key or key.rpartition(".")[0] in SECTIONS for key in KEYS)


def test_every_setting_comes_with_its_type_and_value():
    found = {key: value for key, _, value in every_setting(load(["--name=x", "--steps=3"]))}
    assert found["steps"] == 3 and found["name"] == "x"
    assert set(found) == {*KEYS, *SECTIONS}


def test_from_python_a_stage_has_its_defaults_and_sections_are_dicts():
    config = Config.for_stage("sft", steps=3, batch={"size": 4})
    assert config == dataclasses.replace(
        load(["--stage=sft", "--steps=3", "--batch.size=4"]), name=config.name
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stepz": 3}, 'unknown key "stepz"'),
        ({"steps": 0}, "steps = 0: out of range"),
        ({"rollout": 3}, "needs a section"),
        ({"batch": {"size": 3}}, "batch.size: stage grpo does not read it"),
    ],
)
def test_from_python_the_errors_are_the_command_line_s(settings, words):
    with pytest.raises(InputError, match=words):
        Config.for_stage("grpo", **settings)


def test_from_python_stages_are_a_list():
    config = Config.for_stages([{"stage": "sft", "steps": 2}, {"stage": "grpo"}], seed=5)
    assert len(config.stages) == 2 and config.seed == 5
    with pytest.raises(InputError, match="an empty list trains nothing"):
        Config.for_stages([])
