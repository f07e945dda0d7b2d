"""Records without weights; models by any name: a run, a checkpoint, a list, a folder."""

import dataclasses

import pytest

from cotjax.config import Config
from cotjax.errors import InputError
from cotjax.run import load_records
from cotjax.run.measure import measure
from cotjax.run.opened import (
    config_from_flags,
    config_from_settings,
    newest_stage,
    open_model,
)


def test_records_come_as_training_and_held_out(world):
    train, held_out = load_records(world.config("records", "--stage=grpo"))
    assert len(train) == 20 and len(held_out) == 4
    assert train[0].question.startswith("Mia") and train[0].answer == "7"
    ids = {train[index].id for index in range(len(train))}
    assert not ids & {record.id for record in held_out}


def test_no_weights_are_read_for_records(world, monkeypatch):
    from cotjax.models.formats import huggingface

    monkeypatch.setattr(huggingface, "load", None)
    load_records(world.config("records", "--stage=grpo"))


def test_the_built_in_problems_need_no_file():
    train, held_out = load_records(Config.for_stage("grpo", eval={"problems": 3}))
    assert len(train) == 1_000_000 and len(held_out) == 3


def test_flags_and_settings_open_a_run_with_its_own_config(trained):
    name = str(trained.folder)
    by_flag = config_from_flags(name, ["--eval.samples=2"])
    by_setting = config_from_settings(name, {"eval": {"samples": 2}}, None, "here")
    assert by_flag == by_setting
    assert by_flag.eval.samples == 2 and by_flag.steps == trained.config.steps


def test_a_model_is_opened_with_the_defaults_or_another_run_s_config(world, trained):
    plain = config_from_settings(world.student, {}, None, "here")
    assert plain.model.path == world.student and plain.eval == Config().eval
    like = config_from_settings(world.student, {}, trained.config, "here")
    assert like.model.path == world.student and like.eval == trained.config.eval


def test_a_wrong_setting_names_where_it_came_from(trained):
    with pytest.raises(InputError, match='^here: unknown key "eval.problem". Did you mean "eval.p'):
        config_from_settings(str(trained.folder), {"eval": {"problem": 3}}, None, "here")


@pytest.mark.parametrize("step", [1, 2])
def test_a_checkpoint_of_a_run(trained, step):
    path = str(trained.folder / "checkpoints" / str(step))
    opened = open_model(path, config_from_flags(path, []))
    assert opened.step == step


def test_a_list_is_its_newest_stage(listed):
    assert newest_stage(listed.folder).name == "3-alone"
    name = str(listed.folder)
    numbers = measure(open_model(name, config_from_flags(name, [])))
    after = listed.result["after"]
    assert {key: numbers[key] for key in after if key != "name"} == {
        key: value for key, value in after.items() if key != "name"
    }


def test_the_tenth_stage_comes_after_the_second(tmp_path):
    (tmp_path / "config.toml").touch()
    for name in ("2-a", "10-b"):
        (tmp_path / name / "checkpoints" / "1").mkdir(parents=True)
    assert newest_stage(tmp_path).name == "10-b"


def test_a_measured_run_has_the_numbers_of_its_result(trained):
    name = str(trained.folder)
    numbers = measure(open_model(name, config_from_flags(name, [])))
    assert numbers == {"step": 2} | trained.result["after"]


def test_what_only_learning_needs_of_a_mesh_is_left_out(trained):
    """A run that sampled on devices of its own is asked on all that there are."""
    config = config_from_flags(str(trained.folder), ["--mesh.data=-1"])
    mesh = dataclasses.replace(config.mesh, rollout="tensor=2", rollout_devices=4)
    opened = open_model(str(trained.folder), dataclasses.replace(config, mesh=mesh))
    assert opened.mesh.size == 8 and opened.student.rollout_mesh is opened.mesh
