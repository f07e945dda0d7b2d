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
        (["--rollout.weights-dtype=int8"], "Set policy.sampler_correction = 2."),
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


# A teacher's server: what a message says, a log keeps.


def refused_server(*flags):
    with pytest.raises(InputError) as error:
        load([*flags, "--name=x"], tool="rationales")
    return str(error.value)


@pytest.mark.parametrize(
    "url",
    ["https://me:hunter22@host/v1", "https://hunter22@host/v1", "http://a.b/v1@hunter22@c"],
)
def test_an_address_with_credentials_is_refused_unseen(url):
    message = refused_server(f"--rationales.url={url}")
    assert message.startswith("rationales.url holds") and "hunter22" not in message


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/v1", "ftp://host/v1", "http:///v1", "http://host:port/v1", "http://[::1/v1"]
    + ["http://host/v1?api_key=hunter22", "http://host/v1#hunter22"],
)
def test_an_address_that_is_none_is_refused_and_a_key_in_it_unseen(url):
    message = refused_server(f"--rationales.url={url}")
    assert "needs http:// or https://" in message and "hunter22" not in message


@pytest.mark.parametrize("key", ["sk-hunter22", "gsk_hunter22abc", "", "two words"])
def test_a_key_in_place_of_its_variable_is_refused_unseen(key):
    message = refused_server(f"--rationales.key-variable={key}")
    assert "TEACHER_API_KEY" in message and "hunter22" not in message


def test_names_of_environment_variables_are_taken(monkeypatch):
    monkeypatch.setenv("my_key", "sk-hunter22")
    for name in ("OPENAI_API_KEY", "_K1", "my_key"):
        config = load([f"--rationales.key-variable={name}", "--name=x"], tool="rationales")
        assert config.rationales.key_variable == name
    url = "--rationales.url=http://[::1]:8000/v1"
    assert load([url, "--name=x"], tool="rationales").rationales.url == url.partition("=")[2]


def test_rejection_sampling_needs_no_weight_for_rounded_matrices():
    assert load(["--stage=rft", "--rollout.weights-dtype=int8"]).rollout.weights_dtype == "int8"
    load(["--rollout.weights-dtype=int8", "--policy.sampler-correction=2"])


def test_a_loss_at_another_temperature_than_the_samples_takes_no_weight_of_the_sampler():
    flags = "--policy.objective=bridge_release", "--policy.sampler-correction=2"
    message = refused([*flags, "--rollout.temperature=0.7"])
    assert "rollout.temperature = 0.7: that objective takes log-probabilities at temp" in message
    assert load([*flags, "--rollout.temperature=1"]).policy.sampler_correction == 2
    load([flags[0], "--rollout.temperature=0.7"])
    load([flags[1], "--rollout.temperature=0.7"])
