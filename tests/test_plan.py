"""`cotjax plan`: its words, its exit status, and what it refuses."""

import json

import pytest

from cotjax import plan as command
from cotjax.config import load
from cotjax.planning import run_plan
from tests.planning.conftest import CHIP, SHAPE


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """JAX is there already, and this CPU is not measured."""
    monkeypatch.setattr(command, "set_up", lambda topology: None)
    monkeypatch.setattr(run_plan, "chip_of", lambda topology: CHIP)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--topology=v5e:3x3"], "--topology v5e:3x3: v5e has no such slice. It has 1x1, 2x2"),
        (["--topology=cpu:8", "--price=-1"], "--price = -1: needs a number that is not below 0"),
        (["--topology=cpu:8", "--price=nan"], "--price = nan: needs a number"),
        (["--topology=cpu:8", "--price=x"], "--price = x: needs a number"),
        (["--topology=cpu:8", "--write=a.toml"], "--write: writes what a search finds"),
        (["--topology=cpu:8", "--estimate", "--exact"], "--exact: compiles every layer, and"),
        (["--topology=cpu:8", "--only=sft"], "--only sft: no such stage. Give one of grpo."),
        (["--topology=cpu:8", "--model.path=no"], 'model.path = "no": not a folder'),
        (["--topology=cpu:8", "--mesh.tensor=8"], "mesh.tensor = 8"),
        ([], "--topology"),
    ],
)
def test_what_is_wrong_is_one_sentence(flags, says, capsys):
    assert command.main([*flags, "--stage=grpo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


def test_a_plan_as_json_and_a_chip_that_is_too_small(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    flags = ["--topology=cpu:8", "--stage=sft", f"--model.path={tmp_path}", "--json"]
    flags += ["--data.source=jsonl", "--data.path=not-here.jsonl", "--batch.size=8"]
    flags += ["--batch.sequence-length=128", "--eval.max-new-tokens=8", "--eval.problems=8"]
    monkeypatch.setattr(run_plan, "chip_of", lambda topology: _small())
    assert command.main(flags) == command.TOO_SMALL
    out = capsys.readouterr()
    told = json.loads(out.out)
    assert not told["fits"] and told["verdict"].startswith("does not fit: ")
    assert "planned with the built-in problems" in out.err


def _small():
    import dataclasses

    return dataclasses.replace(CHIP, hbm=1000)


def test_a_file_that_is_written_is_read_again(tmp_path):
    config = load(["--stage=grpo", "--name=plan", "--model.remat=dots"])
    path = tmp_path / "found.toml"
    command._write(path, config)
    assert load(["--config", str(path)]) == config


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    config = load(["--stage=grpo", "--name=plan"])
    with pytest.raises(command.InputError, match="--write .*: cannot write there"):
        command._write(tmp_path / "no" / "found.toml", config)
