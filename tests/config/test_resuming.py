"""What a resumed run may change, by one table; all else is refused by its name."""

import pytest

from cotjax.config import load
from cotjax.config.resuming import (
    ENDS,
    MAY_CHANGE,
    WHERE,
    applied,
    differences,
    fingerprint,
    may_change,
    refuse_changes,
    refuse_stage,
    shaping,
)
from cotjax.config.whole import KEYS, SECTIONS
from cotjax.errors import InputError


def config(*flags, stage="grpo"):
    return load([f"--stage={stage}", "--name=x", *flags])


def refused(old, new, folder, **more):
    with pytest.raises(InputError) as error:
        refuse_changes(old, new, folder, **more)
    return str(error.value)


def test_the_table_names_settings_that_exist_each_with_a_reason():
    assert all(key in (*KEYS, *SECTIONS) and why for key, why in MAY_CHANGE.items())
    assert {*WHERE, *ENDS} <= MAY_CHANGE.keys()
    assert may_change("mesh.fsdp") and may_change("checkpoint.keep") and may_change("steps")
    for key in ("seed", "eval.problems", "model.path", "optimizer.schedule", "data.max_steps"):
        assert not may_change(key)


def test_what_lies_beside_a_run_is_named_alike_in_a_bucket_and_on_a_disk():
    paths = ("gs://my-runs/many/", "gs://my-runs/many/1-sft"), ("runs/many", "runs/many/1-sft")
    found = [shaping(config(f"--output={out}", f"--model.path={path}")) for out, path in paths]
    assert found[0] == found[1] and found[0]["model.path"] == "{output}/1-sft"
    beside = shaping(config("--output=gs://my-runs/many", "--model.path=gs://my-runs/many-more/1"))
    assert beside["model.path"] == "gs://my-runs/many-more/1"


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps=9", "--checkpoint.keep=5", "--eval.every=3", "--mesh.fsdp=2"],
        ["--name=y", "--output=elsewhere"],
        ["--policy.clip-low=auto", "--model.remat=full", "--data.workers=2"],
    ],
)
def test_what_may_change_leaves_the_fingerprint(flags, tmp_path):
    old, new = config(), config(*flags)
    assert fingerprint(shaping(old)) == fingerprint(shaping(new))
    refuse_changes(old, new, tmp_path)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--seed=4", "--resume: seed = 4: {} has 0, and seed shapes its numbers"),
        ("--data.max-steps=3", "--resume: data.max_steps = 3: {} has 6"),
        ("--model.path=smollm2-135m", '--resume: model.path = "smollm2-135m": {} has "tiny"'),
        ("--rollout.stop=a", '--resume: rollout.stop = ["a"]: {} has []'),
    ],
)
def test_what_shapes_the_numbers_is_refused_by_name(flag, said, tmp_path):
    old, new = config(), config(flag)
    assert fingerprint(shaping(old)) != fingerprint(shaping(new))
    assert refused(old, new, tmp_path).startswith(said.format(tmp_path))


def test_all_are_named_and_the_way_on_is_one_that_works(tmp_path):
    told = refused(config(), config("--seed=4", "--data.max-steps=3", "--steps=9"), tmp_path)
    assert "So do data.max_steps." in told and "steps = 9" not in told
    assert told.endswith("begin another run from this one: --name NEW.")  # nothing is trained yet
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    told = refused(config(), config("--seed=4"), tmp_path)
    assert told.endswith(f"--name NEW --model.path {tmp_path}.")


def test_what_is_left_to_auto_was_worked_out_when_the_run_began():
    old = shaping(config()) | {"policy.clip_low": 0.2}
    assert differences(old, shaping(config())) == {}
    assert differences(shaping(config()), old) == {"policy.clip_low": ("auto", 0.2)}


def test_an_object_from_python_is_given_again_by_whoever_has_it():
    old = shaping(config()) | {"reward.function": "python:<lambda>"}
    assert differences(old, shaping(config())) == {}
    assert differences(shaping(config()), old) == {}


def test_a_setting_that_one_of_two_versions_lacks_is_not_compared():
    old = shaping(config())
    del old["seed"]
    assert differences(old, shaping(config("--seed=4"))) == {}


def test_paths_inside_the_output_move_with_it():
    old = config("--output=runs", "--model.path=runs/a/1-sft")
    for new in ("--output=/disk/runs", "--model.path=/disk/runs/a/1-sft"), (
        "--output=./runs/", "--model.path=runs/a/1-sft"
    ):  # fmt: skip
        assert differences(shaping(old), shaping(config(*new))) == {}
    other = config("--output=/disk/runs", "--model.path=runs/a/1-sft")
    assert differences(shaping(old), shaping(other)).keys() == {"model.path"}


def test_a_later_stage_of_a_list_is_told_where_it_begins(tmp_path):
    old, new = config(), config("--model.path=smollm2-135m")
    refuse_changes(old, new, tmp_path, chained=True)


def test_what_is_applied_is_told_with_both_values():
    new = config("--steps=9", "--seed=4", "--name=y", "--checkpoint.keep=5")
    assert applied(config(), new) == {"steps": (60, 9), "checkpoint.keep": (2, 5)}


@pytest.mark.parametrize(
    ("begun", "given", "said"),
    [
        ({"stage": "sft"}, {"stage": "grpo"}, 'stage = "grpo": {} has "sft"'),
        ({"stage": "sft"}, {"stages": []}, 'stages = "a list of stages": {} has "the stage'),
        ({"stage": "list", "stages": []}, {"stage": "sft"}, 'stage = "sft": {} has "list"'),
    ],
)
def test_another_stage_is_refused(begun, given, said, tmp_path):
    with pytest.raises(InputError) as error:
        refuse_stage(begun, given, tmp_path)
    assert said.format(tmp_path) in str(error.value)
    refuse_stage(begun, {}, tmp_path)
    refuse_stage({}, given, tmp_path)
