"""A config is changed, shown unchecked, and found again by the name of its run."""

import pytest

from cotjax.config import Config, change, from_table, load, to_toml
from cotjax.config.loading import unchecked
from cotjax.errors import InputError


def test_a_change_comes_over_a_config_which_stays():
    config = Config.for_stage("grpo", name="x", rollout={"group_size": 4})
    changed = change(config, {"rollout": {"prompts": 2}, "seed": 5}, "here")
    assert (changed.rollout.group_size, changed.rollout.prompts, changed.seed) == (4, 2, 5)
    assert config.rollout.prompts == Config().rollout.prompts
    assert change(config, {}, "here") == config


def test_a_change_of_a_list_reaches_every_stage_that_reads_it():
    config = Config.for_stages([{"stage": "sft"}, {"stage": "grpo"}], name="x")
    changed = change(config, {"steps": 3, "rollout": {"prompts": 2}}, "here")
    assert [entry["steps"] for entry in changed.stages] == [3, 3]
    assert changed.stages[1]["rollout"] == {"prompts": 2} and "rollout" not in changed.stages[0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"stepz": 3}, '^here: unknown key "stepz". Did you mean "steps"'),
        ({"steps": "x"}, '^here: steps = "x" .str.: needs a whole number'),
        ({"batch": {"size": 3}}, "^here: batch.size: stage grpo does not read it"),
        ({"steps": 0}, "^steps = 0: out of range"),
    ],
)
def test_a_change_is_checked_and_says_where_it_came_from(table, says):
    with pytest.raises(InputError, match=says):
        change(Config.for_stage("grpo"), table, "here")


def test_help_shows_settings_that_no_run_could_take():
    assert unchecked(["--stage=grpo", "--steps=0", "--data.source=jsonl"]).steps == 0
    with pytest.raises(InputError):
        unchecked(["--stepz=0"])


def test_a_list_is_shown_with_what_holds_for_all_in_each_entry():
    entries = unchecked(["--stage=bridge", "--steps=3"]).stages
    assert [entry["steps"] for entry in entries] == [3, 3, 3]


def test_a_table_and_the_file_that_holds_it_are_one_config(tmp_path):
    table = {"stage": "grpo", "name": "x", "rollout": {"stop": ["a"]}, "policy": {"ddof": 0}}
    config = from_table(table, "here")
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert load(["--config", str(path)]) == config


def test_a_run_is_resumed_by_its_name_from_its_own_folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.toml").write_text('stage = "sft"\nsteps = 7\n')
    argv = [f"--output={tmp_path}", "--name=mine", "--resume"]
    config = load(argv)
    assert (config.stage, config.steps, config.resume) == ("sft", 7, True)
    assert load([*argv, "--steps=9"]).steps == 9  # flags come over it
    assert load([*argv, "--stage=grpo"]).stage == "grpo"  # what is named counts
