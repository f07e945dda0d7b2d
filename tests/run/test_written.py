"""What a run wrote is read as far as it is whole."""

import json

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.run.folder import write_config
from cotjax.run.written import StepRecord, WrittenRun

DIGESTS = {
    "batch": {"tokens": "ab"},
    "records": [["a", "b"]],
    "prompts": ["00000000.1.AB"],
    "completions": [["00000000.1."]],
    "rewards": [[1.0]],
}


def row(step, **values):
    return json.dumps({"step": step, "kind": "train", **values}) + "\n"


@pytest.fixture
def folder(tmp_path):
    write_config(tmp_path, load(["--stage=sft", "--name=x", "--steps=9"]))
    (tmp_path / "metrics.jsonl").write_text(row(1, loss=1.0) + row(2, loss=2.0) + '{"step": 3')
    (tmp_path / "digests.jsonl").write_text(row(1, **DIGESTS) + row(4, batch={}))
    (tmp_path / "completions.jsonl").write_text(row(2, id="a") + row(2, id="b"))
    return tmp_path


def test_a_step_is_what_its_lines_say(folder):
    written = WrittenRun(folder)
    assert (written.stage, written.last) == ("sft", 4)
    assert written.step(1) == StepRecord({"loss": 1.0}, DIGESTS, [])
    assert written.step(2) == StepRecord({"loss": 2.0}, None, [{"id": "a"}, {"id": "b"}])
    assert written.step(3) == StepRecord(None, None, [])
    assert written.step(4).digests == {"batch": {}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 3},
        {"rows": ["00000000"]},
        {"prompts": "x"},
        {"prompts": []},
        {"completions": [["00000000.0.A"]]},
        {"completions": [[]]},
        {"rewards": [["1"]]},
        {"records": [["a"]]},
        {"records": 7},
    ],
)
def test_a_line_of_another_form_counts_as_not_written(folder, wrong):
    (folder / "digests.jsonl").write_text(row(1, **DIGESTS | wrong))
    assert WrittenRun(folder).step(1).digests is None


def test_a_step_that_was_not_taken_is_refused(folder):
    written = WrittenRun(folder)
    written.check_step(4)
    with pytest.raises(InputError, match=r"--step 5: .* has the steps 1 to 4"):
        written.check_step(5)
    for name in ("metrics.jsonl", "digests.jsonl"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="no step is written there"):
        WrittenRun(folder).check_step(1)


def test_the_settings_of_a_step_are_those_of_its_part(folder):
    part = {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "ended": True}
    parts = [
        {**part, "first_step": 0, "last_step": 2},
        {**part, "first_step": 2, "last_step": 4, "changed": {"steps": [5, 7]}},
        {
            **{**part, "first_step": 4, "last_step": 9},
            "changed": {"steps": [7, 9], "checkpoint.keep": [1, 2]},
        },
    ]
    (folder / "parts.json").write_text(json.dumps(parts))
    written = WrittenRun(folder)
    found = [written.config_at(step) for step in (2, 3, 5)]
    assert [(one.steps, one.checkpoint.keep) for one in found] == [(5, 1), (7, 1), (9, 2)]


def test_a_list_names_its_stages(tmp_path):
    path = tmp_path / "list.toml"
    path.write_text('[[stages]]\nstage = "sft"\n[[stages]]\nstage = "grpo"\n')
    config = load([f"--config={path}", f"--output={tmp_path}", "--name=run"])
    write_config(tmp_path / "run", config)
    with pytest.raises(InputError, match="Name one of its folders, once it has begun"):
        WrittenRun(tmp_path / "run")
    write_config(tmp_path / "run" / "1-sft", load(["--stage=sft", "--name=1-sft"]))
    with pytest.raises(InputError, match=r"is a list of stages.* Name one of .*run/1-sft\.$"):
        WrittenRun(tmp_path / "run")
