"""Every way to get a setting wrong stops with its key, its value and the fix."""

import dataclasses
import math
import re
import typing

import pytest

from cotjax.config import DEFAULTS, Config, Range, load, to_toml, validate
from cotjax.errors import InputError


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refused(argv):
    with pytest.raises(InputError) as error:
        load(argv)
    return str(error.value)


def leaves(section, prefix=""):
    """(key, type, value) of every setting."""
    for name, hint in typing.get_type_hints(type(section), include_extras=True).items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, hint, value


def changed(config, key, value):
    """The config with one dotted key replaced."""
    head, _, tail = key.partition(".")
    if tail:
        value = changed(getattr(config, head), tail, value)
    return dataclasses.replace(config, **{head: value})


# What wins, and what comes out.


def test_flags_win_over_the_file_which_wins_over_the_stage_defaults(toml):
    path = toml('stage = "sft"\nsteps = 7\nseed = 5\n[rollout]\ngroup_size = 4\n')
    config = load(["--config", path, "--steps", "9", "--name=mine"])
    assert (config.stage, config.steps, config.seed) == ("sft", 9, 5)
    assert config.rollout.group_size == 4
    assert config.optimizer == DEFAULTS["sft"].optimizer
    assert config.name == "mine"


def test_a_stage_flag_chooses_the_defaults_under_the_file(toml):
    path = toml("[rollout]\ngroup_size = 4\n")
    config = load([f"--config={path}", "--stage=sft"])
    assert config.stage == "sft"
    assert config.sft == DEFAULTS["sft"].sft
    assert config.steps == DEFAULTS["sft"].steps
    assert config.rollout.group_size == 4


@pytest.mark.parametrize("flag", ["--rollout.group-size", "--rollout.group_size"])
def test_hyphens_and_underscores_mean_the_same(flag):
    assert load([flag, "5"]).rollout.group_size == 5


def test_booleans_are_pairs_of_flags():
    assert load(["--reward.no-monotone"]).reward.monotone is False
    assert load(["--resume", "--name=mine"]).resume is True


def test_an_unnamed_run_is_named_after_its_stage():
    assert load(["--stage=sft"]).name.startswith("sft-")


@pytest.mark.parametrize("stage", DEFAULTS)
def test_the_resolved_config_round_trips(stage, toml):
    config = load(["--stage", stage, "--optimizer.learning-rate=3.3e-7", "--name=élève"])
    assert load(["--config", toml(to_toml(config))]) == config


@pytest.mark.parametrize("stage", DEFAULTS)
def test_defaults_are_valid_and_belong_to_their_stage(stage):
    validate(DEFAULTS[stage])
    assert DEFAULTS[stage].stage == stage


def test_a_whole_number_may_stand_for_a_float(toml):
    value = load(["--config", toml("[optimizer]\nlearning_rate = 1\n")]).optimizer.learning_rate
    assert isinstance(value, float)


def test_a_config_cannot_change_after_load():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load([]).steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_help_explains_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # wider terminals show two columns
    with pytest.raises(SystemExit) as stop:
        load(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--config" in shown
    for key, _, _ in leaves(Config()):
        if key.startswith("bridge."):  # tables of a file, no flags
            continue
        _, flag, rest = shown.partition(f"--{key.replace('_', '-')}")
        assert flag, key
        text = re.sub(r"\{.*?\}|[│]", "", rest[: rest.index("(default:")])
        assert re.search(r"\w+ \w+", text), key


# Files that cannot be used.


def test_a_missing_file():
    message = refused(["--config", "nowhere.toml"])
    assert message.startswith("--config nowhere.toml: No such file") and "Name a TOML" in message


def test_a_folder_for_a_file(tmp_path):
    assert "Is a directory" in refused(["--config", str(tmp_path)])


def test_broken_toml_names_file_and_line(toml):
    path = toml("steps = 3\nseed = = 4\n")
    message = refused(["--config", path])
    assert path in message and "line 2" in message


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refused(["--config", str(path)])


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("[rollout]\ntemprature = 1.0", "rollout.temprature", "rollout.temperature"),
        ("group_size = 8", "group_size", "rollout.group_size"),
        ("[policy]\ngroup_size = 8", "policy.group_size", "rollout.group_size"),
        ("[rolout]\ngroup_size = 8", "rolout", "rollout"),
        ("step = 8", "step", "steps"),
        ("[optimizer]\nlr-rate = 8", "optimizer.lr-rate", "optimizer.learning_rate"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(text, unknown, nearest, toml):
    path = toml(text)
    assert refused(["--config", path]) == (
        f'{path}: unknown key "{unknown}". Did you mean "{nearest}"?'
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('steps = "ten"', 'steps = "ten" (str): needs a whole number.'),
        ("steps = 10.0", "steps = 10.0 (float): needs a whole number."),
        ("steps = true", "steps = true (bool): needs a whole number."),
        ("resume = 1", "resume = 1 (int): needs true or false."),
        ("name = 3", "name = 3 (int): needs a string."),
        ("[data]\npath = ['a']", 'data.path = ["a"] (list): needs a string.'),
        ("seed = 2026-01-01", 'seed = "2026-01-01" (date): needs a whole number.'),
        ("[optimizer]\nlearning_rate = '1e-5'", '= "1e-5" (str): needs a number.'),
        ("[optimizer]\nlearning_rate = true", "= true (bool): needs a number."),
        (
            'stage = "grop"',
            'stage = "grop" (str): needs one of "sft", "grpo", "reconstruct", "rewrite", "bridge", '
            '"distill".',
        ),
        ("[policy]\nddof = 2", 'policy.ddof = 2 (int): needs one of "auto", 0, 1.'),
        ("[policy]\neps = 'x'", 'policy.eps = "x" (str): needs a number or "auto".'),
        ("[policy]\nddof = true", 'policy.ddof = true (bool): needs one of "auto", 0, 1.'),
        ("rollout = 8", "rollout = 8: needs a section [rollout]."),
    ],
)
def test_a_wrong_type_names_key_value_and_type(text, complaint, toml):
    path = toml(text)
    message = refused(["--config", path])
    assert message.startswith(path) and message.endswith(complaint)


# Flags, which tyro refuses: exit status 2, a message, no traceback.


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--rollout.group-siz", "8"], "--rollout.group-size"),
        (["--rollout.group-size", "eight"], "eight"),
        (["--rollout.group-size"], "--rollout.group-size"),
        (["--stage=grop"], "grop"),
        (["--policy.objective=ppo"], "ppo"),
        (["--config"], "--config"),
        (["8"], "8"),
    ],
)
def test_a_bad_flag_exits_with_status_2(argv, shown, capsys):
    with pytest.raises(SystemExit) as stop:
        load(argv)
    assert stop.value.code == 2
    assert shown in capsys.readouterr().err


# Ranges.


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


NUMBERS = [(key, hint) for key, hint, value in leaves(Config()) if type(value) in (int, float)]


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


def test_stop_strings_are_a_list(toml):
    path = toml('[rollout]\nstop = ["\\n\\n", "Question:"]\n')
    config = load(["--config", path])
    assert config.rollout.stop == ("\n\n", "Question:")
    assert load(["--config", toml(to_toml(config))]).rollout.stop == config.rollout.stop
    assert load(["--rollout.stop", "a", "b"]).rollout.stop == ("a", "b")


@pytest.mark.parametrize(
    ("value", "needs"),
    [('"Question:"', '"Question:": needs a list'), ("[1]", r"1 \(int\): needs a string")],
)
def test_stop_strings_that_are_no_list_of_strings(toml, value, needs):
    with pytest.raises(InputError, match=f"rollout.stop = {needs}"):
        load(["--config", toml(f"[rollout]\nstop = {value}\n")])
