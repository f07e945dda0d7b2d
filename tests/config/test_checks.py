"""What is checked of a whole config: every range, and settings that must agree."""

import dataclasses
import math
import typing

import pytest

from cotjax.config import Config, Range, load, validate
from cotjax.config.whole import KEYS, every_setting
from cotjax.errors import InputError


def refused(argv):
    with pytest.raises(InputError) as error:
        load(argv)
    return str(error.value)


def changed(config, key, value):
    """The config with one dotted key replaced."""
    head, _, tail = key.partition(".")
    if tail:
        value = changed(getattr(config, head), tail, value)
    return dataclasses.replace(config, **{head: value})


def test_a_group_of_one():
    assert refused(["--rollout.group-size=1"]) == (
        "rollout.group_size = 1: a group baseline needs at least 2 completions per prompt. "
        "Set rollout.group_size >= 2."
    )


def test_ranges_hold_for_files_too(toml):
    path = toml("[rollout]\ntop_p = 1.5\n")
    assert refused(["--config", path]) == (
        "rollout.top_p = 1.5: out of range. Set 0 < rollout.top_p <= 1."
    )


NUMBERS = [
    (key, hint)
    for key, hint, value in every_setting(Config())
    if key in KEYS and type(value) in (int, float)
]


@pytest.mark.parametrize(("key", "hint"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_every_number_has_a_range(key, hint):
    if typing.get_origin(hint) is typing.Literal:
        return
    assert any(isinstance(limit, Range) for limit in hint.__metadata__), key
    for value in (math.nan, -math.inf, -2):
        with pytest.raises(InputError, match=f"^{key} = {value}: .* Set .*{key}"):
            validate(changed(Config(), key, value))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--name=a/b"], 'name = "a/b": a run is one folder'),
        (["--name=.."], 'name = "..": a run is one folder'),
        (["--resume"], 'resume = true, name = "": which run?'),
        (["--data.min-steps=5", "--data.max-steps=4"], "Set data.max_steps >= 5."),
        (["--data.source=jsonl"], "Set data.path to a .jsonl file."),
        (["--data.path=x.jsonl"], 'Set data.source = "jsonl"'),
        (["--data.eval-path=x.jsonl"], 'Set data.source = "jsonl"'),
        (["--policy.dual-clip=1"], "Set policy.dual_clip > 1, or 0"),
        (["--policy.micro-batch=3"], "Set policy.micro_batch to a divisor of 16, or to 0."),
    ],
)
def test_settings_that_disagree(argv, message):
    assert message in refused(argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mesh.data=-1", "--mesh.fsdp=-1"], "only one axis can take the devices that are left"),
        (["--rollout.completions-per-slot=3"], "does not divide rollout.group_size = 8"),
        (["--data.mixture=problems=1", "--data.path=x"], "Leave data.path or data.mixture empty"),
        (["--data.source=tfds"], "Set data.path to the folder of its version"),
        (["--data.source=reasoning_gym"], "Set data.path to a data set's name"),
    ],
)
def test_more_settings_that_disagree(argv, message):
    assert message in refused(argv)
