"""What each target takes and refuses, and how its file is submitted."""

import types

import pytest

from cotjax.errors import InputError
from cotjax.launching import targets
from cotjax.launching.targets import TARGETS, check, default_path, submit, target_of
from cotjax.launching.templates import template

FITS = {
    "gke": ("v5e:4x4", {"image": "a"}),
    "tpu-vm": ("v5e:4x4", {"zone": "a"}),
    "slurm": ("h100:16", {"bucket": None}),
    "sky": ("h100:16", {}),
    "docker": ("cpu:1", {"image": "a", "bucket": None}),
    "colab": (None, {}),
    "kaggle": (None, {"bucket": None}),
}


def fitting(job, name, **more):
    topology, settings = FITS[name]
    return job(topology, **settings | more)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_what_it_needs_and_has_a_file(job, name):
    check(name, fitting(job, name))
    assert template(TARGETS[name].file)


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("gke", {"image": ""}, "cotjax launch gke: needs --image"),
        ("gke", {"bucket": None}, "cotjax launch gke: needs --bucket"),
        ("gke", {"zone": "a"}, "--zone: cotjax launch gke takes none. Leave it out"),
        ("gke", {"bucket": "s3://abc"}, "gke keeps runs in Google Cloud Storage"),
        ("tpu-vm", {"zone": ""}, "cotjax launch tpu-vm: needs --zone"),
        ("slurm", {"spot": True}, "--spot: cotjax launch slurm takes none"),
        ("docker", {"bucket": "gs://abc"}, "--bucket: cotjax launch docker takes none"),
        ("kaggle", {"queued": True}, "--queued: cotjax launch kaggle takes none"),
    ],
)
def test_options_that_are_missing_or_would_do_nothing(job, name, more, says):
    if isinstance(more.get("bucket"), str):
        more = {"bucket": more["bucket"]}
    with pytest.raises(InputError, match=says):
        check(name, fitting(job, name, **more))


def test_other_devices_are_sent_where_they_belong(job):
    with pytest.raises(InputError, match="h100:8: gke takes a TPU slice .* are for slurm, sky, do"):
        check("gke", job("h100:8", image="a"))
    with pytest.raises(InputError, match="slurm takes GPUs such as h100:8. These .* gke, tpu-vm"):
        check("slurm", job("v5e:2x2", bucket=None))
    with pytest.raises(InputError, match="colab takes none; it takes the devices that it has"):
        check("colab", job("v5e:1x1"))


def test_a_target_that_is_not_there_names_the_nearest():
    assert target_of("tpu_vm") is TARGETS["tpu-vm"]
    with pytest.raises(InputError, match='slrum: no such target. Did you mean "slurm"'):
        target_of("slrum")


@pytest.fixture
def asked(monkeypatch):
    """Commands that were run, of programs that are all here."""
    commands = []
    monkeypatch.setattr(targets.shutil, "which", lambda tool: f"/bin/{tool}")

    def run(words, check):
        commands.append(words)
        return types.SimpleNamespace(returncode=7)

    monkeypatch.setattr(targets.subprocess, "run", run)
    return commands


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gke", "kubectl apply -f my-run-1-gke.yaml"),
        ("tpu-vm", "bash my-run-1-tpu_vm.sh"),
        ("slurm", "sbatch my-run-1-slurm.sh"),
        ("sky", "sky launch --cluster my-run-1 my-run-1-sky.yaml"),
        ("docker", "docker build --file my-run-1-Dockerfile --tag a ."),
    ],
)
def test_one_command_submits_the_file(job, asked, name, words):
    made = fitting(job, name)
    path = default_path(name, made)
    assert submit(name, made, path, "text") == 7, "the command's own status"
    assert asked == [words.split()] and path.read_text() == "text"


@pytest.mark.parametrize("name", ["gke", "tpu-vm", "slurm", "sky", "docker"])
def test_a_tool_that_is_missing_is_named_and_the_file_is_there(job, asked, monkeypatch, name):
    monkeypatch.setattr(targets.shutil, "which", lambda tool: None)
    made = fitting(job, name)
    path = default_path(name, made)
    tool = TARGETS[name].tool[0]
    says = f"{tool} is not installed here .*{path} is written; where {tool} is, run"
    with pytest.raises(InputError, match=says):
        submit(name, made, path, "text")
    assert not asked and path.read_text() == "text"


def test_a_notebook_is_opened_by_a_person(job, asked, capsys):
    made = fitting(job, "colab")
    assert submit("colab", made, default_path("colab", made), "text") == 0
    assert not asked and "and import my-run-1-colab.ipynb" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_one_sentence(job, tmp_path):
    made = fitting(job, "colab")
    with pytest.raises(InputError, match="cannot be written .* Give another file by --out"):
        submit("colab", made, tmp_path / "no" / "x.ipynb", "text")
