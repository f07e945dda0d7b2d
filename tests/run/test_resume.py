"""Whether a run, or a list of stages, may go on with other settings than it began with."""

import dataclasses

import pytest

from cotjax.config import Config, load, stage_configs
from cotjax.errors import InputError
from cotjax.run.folder import changes_of, write_config
from cotjax.run.resume import check_resume, with_ended_stages
from cotjax.run.stage_list import plan

LIST = """
steps = 2
[[stages]]
stage = "sft"
[[stages]]
stage = "grpo"
[[stages]]
stage = "grpo"
name = "more"
"""


@pytest.fixture
def begun(tmp_path):
    """A list whose first stage has ended, whose second has begun, and whose third has not."""
    path = tmp_path / "list.toml"
    path.write_text(LIST)
    config = load([f"--config={path}", f"--output={tmp_path}", "--name=run"])
    folder = tmp_path / "run"
    write_config(folder, config)
    for own in plan(config, folder)[:2]:
        write_config(folder / own.name, own)
    (folder / "1-sft" / "result.json").write_text("{}")
    return folder


def again(folder, *flags):
    return load([f"--output={folder.parent}", f"--name={folder.name}", "--resume", *flags])


def refused(folder, *flags):
    with pytest.raises(InputError) as error:
        check_resume(again(folder, *flags), folder)
    return str(error.value)


def test_its_name_alone_goes_on_with_its_settings(begun):
    config = again(begun)
    check_resume(config, begun)
    assert stage_configs(with_ended_stages(config, begun)) == stage_configs(config)
    assert [own["steps"] for own in config.stages] == [2, 2, 2]


def test_a_seed_is_refused_by_the_first_stage_that_was_begun(begun):
    assert refused(begun, "--seed=4").startswith(f"--resume: seed = 4: {begun / '1-sft'} has 0")


def test_a_setting_of_a_stage_that_was_begun_is_refused(begun):
    told = refused(begun, "--rollout.group-size=4")
    assert told.startswith(f"--resume: rollout.group_size = 4: {begun / '2-grpo'} has 8")


def test_a_stage_that_has_ended_is_as_long_as_it_was(begun):
    told = refused(begun, "--steps=9")
    assert f"steps = 9: {begun / '1-sft'} has 2, and steps says when it ends, and it has" in told


def test_what_may_change_does_so_in_stages_that_are_left(begun):
    config = again(begun, "--checkpoint.keep=5")
    check_resume(config, begun)
    kept = [entry["checkpoint"]["keep"] for entry in with_ended_stages(config, begun).stages
            if "checkpoint" in entry]  # fmt: skip
    assert kept == [5, 5]


def test_a_list_that_lacks_a_stage_that_was_begun_is_refused(begun, tmp_path):
    path = tmp_path / "other.toml"
    path.write_text(LIST.replace('stage = "grpo"', 'stage = "grpo"\nname = "new"', 1))
    told = refused(begun, f"--config={path}")
    assert "stages" in told and "2-grpo" in told


def test_a_single_stage(tmp_path):
    folder = tmp_path / "run"
    config = load(["--stage=sft", "--name=run", f"--output={tmp_path}", "--steps=3"])
    write_config(folder, config)
    assert changes_of(config, folder) == {}
    longer = again(folder, "--steps=5")
    check_resume(longer, folder)
    assert changes_of(longer, folder) == {"steps": (3, 5)}
    with pytest.raises(InputError, match='--resume: stage = "grpo"'):
        check_resume(dataclasses.replace(longer, stage="grpo"), folder)
    assert "--resume: eval.problems = 9" in refused(folder, "--eval.problems=9")


class Own:
    """A stage that no import finds by its name."""

    from_config = classmethod(lambda cls, config, mesh: None)


Own.__qualname__ = "somewhere.<locals>.Own"


def test_a_stage_from_python_is_given_again(tmp_path):
    folder = tmp_path / "run"
    config = Config.for_stage(Own, name="run", output=str(tmp_path), steps=3)
    write_config(folder, config)
    assert 'stage = "python:' in (folder / "config.toml").read_text()
    longer = dataclasses.replace(config, resume=True, steps=5)
    check_resume(longer, folder)
    assert changes_of(longer, folder) == {"steps": (3, 5)}
