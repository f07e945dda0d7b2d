"""`cotjax launch`: its words, what it prints of each target, and what it refuses."""

import json
import pathlib

import pytest
import yaml

from cotjax import launch as command
from cotjax.launching import targets
from cotjax.launching.targets import TARGETS

CONFIG = "configs/tiny_grpo.toml"
ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = {
    "gke": ["--topology=v5e:4x4", "--bucket=gs://my-runs", "--image=a/b:1"],
    "tpu-vm": ["--topology=v5p-16", "--bucket=gs://my-runs", "--zone=us-east5-a"],
    "slurm": ["--topology=h100:16"],
    "sky": ["--topology=v6e-8", "--bucket=gs://my-runs"],
    "docker": ["--topology=cpu:2", "--image=a"],
    "colab": [],
    "kaggle": [],
}


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """In the checkout, where nothing is run."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(targets.subprocess, "run", lambda *_, **__: pytest.fail("submitted"))


def launched(target, *more, config=CONFIG):
    return command.main([target, f"--config={config}", *OPTIONS[target], *more])


@pytest.mark.parametrize("target", TARGETS)
def test_a_dry_run_prints_the_file_and_the_one_command(target, capsys):
    assert launched(target, "--dry-run") == 0
    out = capsys.readouterr()
    name = f"tiny-grpo-{TARGETS[target].file}"
    assert f"This is {name}. Without --dry-run: " in out.err
    assert not (ROOT / name).exists()
    if OPTIONS[target]:
        topology = OPTIONS[target][0].removeprefix("--topology=")
        assert f"cotjax plan --config {CONFIG} --topology {topology}" in out.err
        assert f"{CONFIG} as tiny_grpo on {topology}" in out.out


def test_what_is_printed_of_each_is_of_its_kind(capsys):
    read = {
        "gke": lambda text: list(yaml.safe_load_all(text))[1]["kind"] == "JobSet",
        "tpu-vm": lambda text: "ACCELERATOR=v5p-16\n" in text,
        "slurm": lambda text: "#SBATCH --nodes=2\n" in text,
        "sky": lambda text: yaml.safe_load(text)["resources"]["accelerators"] == "tpu-v6e-8",
        "docker": lambda text: f"ARG CONFIG={CONFIG}\n" in text,
        "colab": lambda text: "min_steps = 2" in json.dumps(json.loads(text)),
        "kaggle": lambda text: "min_steps = 2" in json.dumps(json.loads(text)),
    }
    assert read.keys() == TARGETS.keys()
    for target, right in read.items():
        launched(target, "--dry-run")
        assert right(capsys.readouterr().out), target


def test_the_name_is_the_flags_the_files_or_the_file_names(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    for text, flags, name in (
        ('stage = "grpo"', [], "mine"),
        ('stage = "grpo"\nname = "own"', [], "own"),
        ('stage = "grpo"\nname = "own"', ["--name=flag"], "flag"),
    ):
        path.write_text(text)
        assert launched("slurm", *flags, "--dry-run", config=str(path)) == 0
        assert f"\nNAME={name}\n" in capsys.readouterr().out


def test_keys_are_checked_and_go_along(capsys):
    assert launched("slurm", "--steps=7", "--mesh.fsdp", "8", "--dry-run") == 0
    assert "FLAGS=(--steps=7 --mesh.fsdp 8)" in capsys.readouterr().out


def test_without_a_dry_run_the_file_is_written_and_submitted(tmp_path, monkeypatch):
    monkeypatch.setattr(targets.shutil, "which", lambda tool: None)
    assert launched("slurm", f"--out={tmp_path / 'a.sh'}") == 2, "sbatch is not here"
    assert (tmp_path / "a.sh").read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["gkee"], 'cotjax launch gkee: no such target. Did you mean "gke"?'),
        ([], "the following arguments are required: TARGET"),
        (["gke"], "cotjax launch: needs --config FILE"),
        (["gke", "--config=no.toml"], "no.toml"),
        (["gke", f"--config={CONFIG}"], "cotjax launch gke: needs --topology"),
        (["gke", f"--config={CONFIG}", "--topology=v5e:3x3"], "v5e has no such slice. It has 1x1"),
        (["gke", f"--config={CONFIG}", "--topology=v9"], "no such devices. Give a TPU slice"),
        (["slurm", f"--config={CONFIG}", "--topology=h100:12"], "12 GPUs do not fill hosts of 8"),
        (["slurm", f"--config={CONFIG}", "--mesh.fsdp=3", "--topology=h100:8"], "mesh.fsdp = 3"),
        (
            ["tpu-vm", f"--config={CONFIG}", "--mesh.data=3", "--topology=v5e:4x4*2"],
            "mesh.data = 3, mesh.fsdp = 1, mesh.tensor = 1: use 6 of the 32 devices",
        ),
        (["sky", f"--config={CONFIG}", "--topology=h100:8", "--bucket=my-runs"], "is no bucket"),
        (["slurm", f"--config={CONFIG}", "--stepz=3"], 'unknown key "stepz"'),
        (["slurm", f"--config={CONFIG}", "--tpology=x"], 'Did you mean "topology"'),
        (["slurm", f"--config={CONFIG}", "--output=x"], "--output: a launched run is kept"),
        (["slurm", f"--config={CONFIG}", "--resume"], "--resume: a launched run resumes by itself"),
    ],
)
def test_what_is_wrong_is_one_sentence(argv, says, capsys):
    assert command.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "topology", "count"),
    [("gke", "v5e:4x4", 4), ("tpu-vm", "v5p-16", 2), ("sky", "h100:16", 2), ("slurm", "h100:8", 8)],
)
def test_devices_that_only_sample_need_one_process(target, topology, count, capsys):
    words = f"--topology={topology}", "--mesh.rollout-devices=4", "--dry-run"
    assert launched(target, *words) == 2
    told = capsys.readouterr().err
    assert f"{target} starts {count} processes on {topology}" in told
    if target in ("gke", "sky"):
        assert launched(target, "--topology=v5e:2x4", *words[1:]) == 0


def test_a_file_that_resumes_is_refused_as_the_flag_is(tmp_path, capsys):
    (tmp_path / "run.toml").write_text('stage = "grpo"\nresume = true\n')
    assert launched("slurm", "--dry-run", config=tmp_path / "run.toml") == 2
    assert "resume = true: a launched run resumes by itself" in capsys.readouterr().err
