"""A run that chooses what its backward pass computes again, and keeps to it."""

import dataclasses
import tomllib

from cotjax.config import load
from cotjax.planning import remat as planned
from cotjax.run import remat
from cotjax.run.remat import with_remat
from cotjax.run.start import run

FLAGS = (
    *("--stage=sft", "--name=auto", "--steps=2", "--batch.size=8", "--batch.sequence-length=256"),
    *("--eval.problems=2", "--eval.samples=0", "--eval.max-new-tokens=4", "--model.remat=auto"),
    "--data.max-steps=2",
    "--checkpoint.every=1",
)


def test_what_is_not_left_open_stays(tmp_path):
    config = load(["--stage=sft", "--name=a", "--model.remat=dots"])
    assert with_remat(config, tmp_path, None) == (config, "")


def test_a_run_writes_what_it_chose_and_takes_it_again(tmp_path, monkeypatch, capsys):
    config = load([*FLAGS, f"--output={tmp_path}"])
    monkeypatch.setattr(remat, "free_bytes", lambda _: 1)
    folder = run(config)
    assert tomllib.loads((folder / "config.toml").read_text())["model"]["remat"] == "full"
    assert 'note: model.remat = "auto" is "full": of 0 MiB' in capsys.readouterr().out

    def chosen_again(*_):
        raise AssertionError("a resumed run chooses nothing")

    monkeypatch.setattr(planned, "choose_remat", chosen_again)
    longer = dataclasses.replace(config, steps=3, resume=True)
    run(longer)
    assert tomllib.loads((folder / "config.toml").read_text())["model"]["remat"] == "full"
    assert "remat" not in capsys.readouterr().out
