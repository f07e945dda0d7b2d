"""`cotjax.train`: the same run as the command line's, with objects of one's own."""

import dataclasses
import json

import pytest

import cotjax
from cotjax import Config
from cotjax.errors import InputError
from cotjax.train import main


def rewarded(completion, record):
    """More for what says 7."""
    return float("7" in completion.text)


def without_times(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not key.endswith(("_s", "data_wait"))}
        for row in rows
    ]


def test_python_and_the_command_line_train_the_same(world, trained):
    assert main(world.flags("by-command", "--stage=grpo", "--eval.every=1")) == 0
    assert without_times(world.folder / "runs" / "by-command") == without_times(trained.folder)


def test_a_reward_from_python_is_what_the_run_learns_from(world):
    run = cotjax.train(world.config("rewarded", "--stage=grpo"), reward=rewarded)
    rows = [row for row in run.completions if row["kind"] == "train"]
    assert rows and all(row["reward"] == float("7" in row["completion"]) for row in rows)
    assert run.config.reward.function is rewarded


def test_an_object_reaches_each_stage_of_a_list_that_reads_it(world):
    run = cotjax.train(world.list_config("rewarded-list"), reward=rewarded)
    assert [own.config.reward.function for own in run.stages] == [rewarded] * 3
    rows = [row for row in run.stages[1].completions if row["kind"] == "train"]
    assert all(row["reward"] in (0.0, 1.0) for row in rows)


def test_a_config_that_was_changed_unchecked_is_checked(world):
    config = dataclasses.replace(world.config("unchecked", "--stage=grpo"), steps=0)
    with pytest.raises(InputError, match="steps = 0: out of range. Set steps >= 1"):
        cotjax.train(config)
    assert not (world.folder / "runs" / "unchecked").exists()


def test_a_folder_that_is_taken_is_left_alone(world, trained):
    with pytest.raises(InputError, match="exists. Add --resume"):
        cotjax.train(world.config("one", "--stage=grpo"))


def test_an_unnamed_config_gets_a_name(world, monkeypatch):
    from cotjax.run import start

    begun = []
    monkeypatch.setattr(start, "run", lambda config, *, began: begun.append(config.name))
    monkeypatch.setattr(start, "Run", lambda folder, *, objects: None)
    cotjax.train(Config())
    assert begun[0].startswith("grpo-")
