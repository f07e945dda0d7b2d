"""The trackers of a run: who is told, under which name, and what a run with one leaves behind."""

import json

import pytest

import cotjax
from cotjax.config import load
from cotjax.errors import InputError
from cotjax.run import early, tracking
from cotjax.run.early import check_run
from cotjax.run.tracking import trackers_of
from tests.training.test_trackers import Listener


def opened(monkeypatch, folder, *flags, silent=False):
    """(what the trackers were opened with, what was printed)."""
    runs, told = [], []
    kinds = {name: lambda run: runs.append(run) or Listener(run) for name in tracking.KINDS}
    monkeypatch.setattr(tracking, "KINDS", kinds)
    config = load(["--stage=grpo", "--name=x", *flags])
    trackers = trackers_of(config, folder, [{"started": "2026-01-01"}], told.append, silent=silent)
    trackers.begin(None)
    trackers.close()
    return runs, "".join(told)


def test_each_is_opened_once_and_knows_the_config(monkeypatch, tmp_path):
    flags = ["--track", "wandb", "trackio", "wandb", "--track-project=mine"]
    (one, other), said = opened(monkeypatch, tmp_path / "x", *flags)
    assert one == other and said == ""
    assert (one.project, one.name, one.group) == ("mine", "x", "")
    assert one.config["rollout"]["group_size"] == 8 and len(one.id) == 12


def test_a_stage_of_a_list_is_in_its_group(monkeypatch, tmp_path):
    (tmp_path / "config.toml").touch()
    (one,), _ = opened(monkeypatch, tmp_path / "2-grpo", "--track=wandb")
    assert (one.name, one.group) == (f"{tmp_path.name}-2-grpo", tmp_path.name)


def test_a_run_in_a_bucket_is_the_same_on_every_machine(monkeypatch, tmp_path):
    flags = ["--track=wandb", "--output=gs://my-runs/maths"]
    ids = {opened(monkeypatch, tmp_path / at / "x", *flags)[0][0].id for at in ("here", "there")}
    other = [*flags[:1], "--output=gs://my-runs/other"]
    assert len(ids) == 1 and opened(monkeypatch, tmp_path / "x", *other)[0][0].id not in ids


def test_only_one_process_tells(monkeypatch, tmp_path):
    assert opened(monkeypatch, tmp_path, "--track=wandb", silent=True) == ([], "")
    assert opened(monkeypatch, tmp_path) == ([], "")


def test_one_that_is_not_installed_is_refused_with_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setattr(early.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("trackio", "track"), ("tensorboard", "track"), ("wandb", "wandb")):
        config = load([f"--track={name}", f"--output={tmp_path}", "--name=new"])
        with pytest.raises(InputError, match=f'Run pip install "cotjax.{extra}."'):
            check_run(config, tmp_path / "new")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--track=wandbb"], 'track = "wandbb"'),
        (["--track-project=mine"], 'track_project = "mine": does nothing while track = []'),
    ],
)
def test_wrong_settings_are_refused(flags, said):
    with pytest.raises(InputError) as error:
        load(flags)
    assert said in str(error.value)


def test_a_run_is_told_and_goes_on_where_a_tracker_fails(world, monkeypatch):
    listener = Listener(None)

    def away(run):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tracking, "KINDS", {"trackio": lambda run: listener, "wandb": away})
    config = world.config("tracked", "--stage=sft", "--track", "trackio", "wandb")
    run = cotjax.train(config)
    assert [one for one, _ in listener.told[-2:]] == ["report", "end"]
    assert listener.told[-1] == ("end", False)
    written = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    numbers = [(step, value) for step, value in listener.told if isinstance(value, dict)]
    assert [step for step, _ in numbers] == [line["step"] for line in written]
    assert numbers[-1][1]["eval/accuracy"] == written[-1]["accuracy"]
    assert run.config.track == ("trackio", "wandb")
