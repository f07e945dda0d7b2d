"""One stage: its folder, its clock, and what it says."""

import json
import time

import pytest

from cotjax.errors import InputError
from cotjax.run import run_stage
from cotjax.run import start as starting
from cotjax.stages.policy import PolicyStage
from cotjax.training.checkpoint import Checkpoints


def test_the_folder_holds_a_whole_run(trained):
    names = {path.name for path in trained.folder.iterdir()}
    assert names - {"alarms.jsonl", "first_answers.json"} == {  # of some runs
        *("config.toml", "facts.json", "metrics.jsonl", "completions.jsonl", "checkpoints"),
        *("parts.json", "result.json", "report.html", "digests.jsonl", ".lock"),
    }


def test_seconds_are_those_of_this_run_not_of_the_process(world, trained):
    """The test process is older than its runs, as a notebook is."""
    (part,) = trained.result["parts"]
    assert trained.result["seconds"] == part["seconds"]
    assert (part["first_step"], part["last_step"], part["ended"]) == (0, 2, True)
    config = world.config("an-hour-later", "--stage=grpo")
    folder = world.folder / "runs" / config.name
    run_stage(config, folder, began=time.monotonic() - 3600)
    assert 3600 <= json.loads((folder / "result.json").read_text())["seconds"] < 3660


class Stop(Exception):
    """Stands for whatever ends a run between two steps."""


def test_a_resumed_run_counts_all_its_parts(world, monkeypatch):
    config = world.config("resumed", "--stage=grpo", "--steps=3")
    original, save = PolicyStage.next_step, Checkpoints.save

    def next_step(self, params, step):
        if step == 2:
            raise Stop
        return original(self, params, step)

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self._manager.wait_until_finished()

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(PolicyStage, "next_step", next_step)
        patch.setattr(Checkpoints, "save", save_and_wait)
        starting.run(config, began=time.monotonic() - 50)
    folder = world.folder / "runs" / "resumed"
    (part,) = json.loads((folder / "parts.json").read_text())
    assert (part["first_step"], part["last_step"], part["ended"]) == (0, 2, False)
    again = world.config("resumed", "--stage=grpo", "--steps=3", "--resume")
    starting.run(again, began=time.monotonic() - 20)
    result = json.loads((folder / "result.json").read_text())
    steps = [(part["first_step"], part["last_step"]) for part in result["parts"]]
    assert steps == [(0, 2), (2, 3)]
    assert result["seconds"] == round(sum(part["seconds"] for part in result["parts"]), 1) >= 70
    starting.run(again, began=time.monotonic() - 20)  # nothing is left to do
    assert json.loads((folder / "result.json").read_text())["parts"] == result["parts"]


def test_it_speaks_plain_text_also_in_a_notebook(trained, capsys, monkeypatch):
    from cotjax.run.folder import console

    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    console().print("step 1")
    assert capsys.readouterr().out == "step 1\n"


def test_a_run_does_not_go_on_with_other_records(world):
    flags = "--stage=grpo", "--steps=1"
    starting.run(world.config("records", *flags))
    folder = world.folder / "runs" / "records"
    parts = json.loads((folder / "parts.json").read_text())
    (path,) = parts[0]["data"]
    parts[0]["data"] = {path: "0" * 12}  # as if the file had held something else
    (folder / "parts.json").write_text(json.dumps(parts))
    with pytest.raises(InputError, match="--resume: .* the file of records was changed since"):
        starting.run(world.config("records", *flags, "--resume"))
