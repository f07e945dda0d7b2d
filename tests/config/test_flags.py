"""Flags are the table that a file would give; what is wrong with one is said in one sentence."""

import pytest

from cotjax.config import load
from cotjax.config.flags import key_of, read_flags
from cotjax.errors import InputError


def settings(*argv):
    return read_flags(argv)[1]


@pytest.mark.parametrize("flag", ["--rollout.group-size", "--rollout.group_size"])
def test_hyphens_and_underscores_mean_the_same(flag):
    assert settings(flag, "5") == settings(f"{flag}=5") == {"rollout": {"group_size": 5}}


def test_the_last_one_of_a_key_counts():
    assert settings("--steps=3", "--steps", "4") == {"steps": 4}


def test_the_file_stands_beside_the_settings():
    assert read_flags(["--seed=1", "--config", "a.toml"]) == ("a.toml", {"seed": 1})


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--resume"], True),
        (["--no-resume"], False),
        (["--resume=true"], True),
        (["--resume", "false"], False),
    ],
)
def test_what_is_true_or_false(argv, value):
    assert settings(*argv) == {"resume": value}


def test_a_section_s_switch_is_turned_off_inside_it():
    assert settings("--reward.no-monotone", "--seed=2") == {
        "reward": {"monotone": False},
        "seed": 2,
    }


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--rollout.stop", "a", "b", "--seed=1"], ["a", "b"]),
        (["--rollout.stop=a", "b", "--seed=1"], ["a", "b"]),
        (["--rollout.stop=--a", "--seed=1"], ["--a"]),
        (["--rollout.stop", "--seed=1"], []),
    ],
)
def test_a_list_takes_the_words_up_to_the_next_flag(argv, value):
    assert settings(*argv) == {"rollout": {"stop": value}, "seed": 1}


def test_a_table_is_written_as_in_toml():
    table = settings("--policy.term-settings", '{ cap = 2.0, name = "x" }')
    assert table == {"policy": {"term_settings": {"cap": 2.0, "name": "x"}}}


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--mesh.data", "-1"], {"mesh": {"data": -1}}),
        (["--optimizer.learning-rate=1e-4"], {"optimizer": {"learning_rate": 1e-4}}),
        (["--policy.ddof=1"], {"policy": {"ddof": 1}}),
        (["--policy.eps=auto"], {"policy": {"eps": "auto"}}),
        (["--policy.eps=0.5"], {"policy": {"eps": 0.5}}),
        (["--data.path=3"], {"data": {"path": "3"}}),
        (["--name=a=b"], {"name": "a=b"}),
        (["--reward.function=./f.py:g"], {"reward": {"function": "./f.py:g"}}),
    ],
)
def test_a_word_becomes_what_its_key_takes(argv, value):
    assert settings(*argv) == value


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["8"], "8: no flag stands before it."),
        (["--steps"], "--steps: needs a value. Write --steps VALUE or --steps=VALUE."),
        (["--steps", "--seed=1"], "--steps: needs a value."),
        (
            ["--track=wandb", "--track=trackio"],
            "--track: is given twice. Write --track wandb trackio.",
        ),
        (["--no-resume=3"], "--no-resume=3: takes no value."),
        (["--stages=x"], "--stages: a list is written in a file, as [[stages]]."),
        (["--stepz=3"], '--stepz: unknown key "stepz". Did you mean "steps"?'),
        (["--confg=3"], 'Did you mean "config"?'),
        (["--no-steps"], '--no-steps: unknown key "no_steps". Did you mean "steps"?'),
        (["--rollout.group-siz", "8"], 'Did you mean "rollout.group_size"?'),
        (["--sft.batch-size=8"], '--sft.batch-size: unknown key "sft.batch_size": it is now '),
    ],
)
def test_a_flag_that_cannot_be_read(argv, says):
    with pytest.raises(InputError) as error:
        read_flags(argv)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--steps=abc"], 'steps = "abc" (str): needs a whole number.'),
        (["--steps=1.5"], 'steps = "1.5" (str): needs a whole number.'),
        (["--optimizer.learning-rate=x"], 'optimizer.learning_rate = "x" (str): needs a number.'),
        (["--resume=yes"], 'resume = "yes" (str): needs true or false.'),
        (["--policy.ddof=2"], 'policy.ddof = "2" (str): needs one of "auto", 0, 1.'),
        (["--policy.term-settings=cap"], 'policy.term_settings = "cap" (str): needs a table.'),
        (["--policy.objective=ppo"], 'policy.objective = "ppo" (str): needs one of "grpo", "dr_g'),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_as_in_a_file(argv, says):
    with pytest.raises(InputError) as error:
        load(argv)
    assert str(error.value).startswith(f"the command line: {says}")


def test_other_flags_may_be_the_nearest():
    with pytest.raises(InputError, match='Did you mean "checkpoint-folder"'):
        key_of("--checkpont-folder", ["checkpoint-folder"])
