"""A run whose output is a bucket: there at the end, whatever failed, and gone on from there."""

import json
import sys
import time
import tomllib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cotjax.checksums import FILE, damage
from cotjax.config import load
from cotjax.errors import InputError
from cotjax.evaluate import evaluate
from cotjax.remote.lease import WRITER
from cotjax.remote.place import folder_of, open_remote
from cotjax.run.mirrored import check_bucket, mirrored
from cotjax.stages.supervised import SupervisedStage
from cotjax.train import main as train
from tests.remote.buckets import Flaky, machines, names, text, write_run
from tests.tiny import flags, without_notes

OUTPUT = "flaky://b/runs"
STEPS = 4


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    return machines(tmp_path, monkeypatch)


def sft(world, output, name, *more):
    own = ["--stage=sft", "--model.init=pretrained", f"--steps={STEPS}", "--eval.every=2"]
    return flags(world.student, world.data, output, name, *own, *more)


def config_of(world, name, *more):
    return load(sft(world, OUTPUT, name, *more))


def state_of(folder, step=STEPS):
    """The parameters and the optimizer's state of a checkpoint."""
    path = folder / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        metadata = reader.metadata(path).item_metadata.tree
        like = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        return reader.restore(path, ocp.args.PyTreeRestore(restore_args=like))


def without_times(text):
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        {name: value for name, value in row.items() if not name.endswith(("_s", "data_wait"))}
        for row in rows
    ]


def test_a_run_whose_upload_broke_off_goes_on_from_the_bucket_alone(
    world, machine, monkeypatch, capsys
):
    assert train(sft(world, world.folder / "runs", "undisturbed")) == 0
    undisturbed, url = world.folder / "runs" / "undisturbed", f"{OUTPUT}/cut"
    argv, original = sft(world, OUTPUT, "cut"), SupervisedStage.next_step

    def next_step(self, params, step):
        if step == STEPS - 1:  # the last: that before is in the bucket, and this will not be
            end = time.monotonic() + 60
            while f"checkpoints/{step}/{FILE}" not in names(url):
                assert time.monotonic() < end
                time.sleep(0.01)
            Flaky.break_at(f"/checkpoints/{STEPS}/", 3000)
        return original(self, params, step)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedStage, "next_step", next_step)
        capsys.readouterr()
        assert train(argv) == 2
    said = without_notes(capsys.readouterr().err)
    assert said == (
        f"error: {url}: the end of the run could not be uploaded (ConnectionError: the server is "
        f"away). Everything is in {folder_of(url)}; upload it from this machine: cotjax train "
        f"--resume --output={OUTPUT} --name=cut\n"
    )
    assert any(name.startswith(f"checkpoints/{STEPS}/") for name in names(url))
    assert f"checkpoints/{STEPS}/{FILE}" not in names(url)
    assert tomllib.loads(text(url, "config.toml").decode())["output"] == OUTPUT
    there = machine("another")
    Flaky.repair()
    assert train(["--resume", f"--output={OUTPUT}", "--name=cut"]) == 0
    folder = there / "flaky" / "b" / "runs" / "cut"
    jax.tree.map(np.testing.assert_array_equal, state_of(folder), state_of(undisturbed))
    wanted = without_times((undisturbed / "metrics.jsonl").read_text())
    assert without_times(text(url, "metrics.jsonl").decode()) == wanted
    parts = json.loads(text(url, "result.json"))["parts"]
    assert [part["first_step"] for part in parts] == [0, STEPS - 1]
    assert not damage(folder / "checkpoints" / str(STEPS))

    # Both checkpoints that are kept by default are there, and whole.
    steps = {name.split("/")[1] for name in names(url) if name.startswith("checkpoints/")}
    keep = tomllib.loads((undisturbed / "config.toml").read_text())["checkpoint"]["keep"]
    assert {f"checkpoints/{step}/{FILE}" for step in steps} <= names(url) and len(steps) <= keep

    # Whoever reads it elsewhere needs no more than its URL.
    monkeypatch.setattr(MemoryFileSystem, "store", dict(Flaky.store))
    machine("reader")
    assert evaluate("memory://b/runs/cut", ["--eval.samples=0"])["step"] == STEPS


LIST = """
[[stages]]
stage = "sft"
model.init = "pretrained"

[[stages]]
stage = "sft"
name = "again"
"""


def test_a_list_in_a_bucket_means_the_same_everywhere(world, machine, tmp_path):
    file, output = tmp_path / "list.toml", f"file://{tmp_path}/bucket"
    file.write_text(LIST)
    argv = flags(world.student, world.data, output, "many", f"--config={file}", "--steps=1",
                 "--batch.sequence-length=48")  # fmt: skip
    assert train(argv) == 0
    bucket = tmp_path / "bucket" / "many"
    second = tomllib.loads((bucket / "2-again" / "config.toml").read_text())
    assert second["model"]["path"] == f"{output}/many/1-sft"
    assert second["output"] == f"{output}/many"
    before = (bucket / "2-again" / "checkpoints" / "1" / FILE).read_bytes()
    machine("another")
    assert evaluate(f"{output}/many", ["--eval.samples=0"])["step"] == 1
    (bucket / "result.json").unlink()  # as if it had not ended
    (bucket / "2-again" / "result.json").unlink()
    assert train([*argv, "--resume"]) == 0
    assert (bucket / "result.json").is_file() and (bucket / "report.html").is_file()
    assert (bucket / "2-again" / "checkpoints" / "1" / FILE).read_bytes() == before


def test_a_bucket_that_cannot_be_written_is_an_error_before_anything(world, capsys):
    Flaky.break_at("/b/", 0)
    assert train(sft(world, OUTPUT, "new")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f'error: output = "{OUTPUT}/new": cannot be written (ConnectionError')
    assert not folder_of(f"{OUTPUT}/new").exists()


def test_a_package_that_is_missing_is_an_error_with_the_line_that_installs_it(
    world, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert train(sft(world, "gs://my-runs/maths", "new")) == 2
    assert 'Run pip install "cotjax[gcs]", or name a folder' in capsys.readouterr().err


def test_a_run_that_another_process_writes_is_refused(world, capsys):
    remote = open_remote(f"{OUTPUT}/new", "output")
    remote.write(WRITER, json.dumps({"id": "other", "pid": 7, "host": "far"}).encode())
    assert train(sft(world, OUTPUT, "new")) == 2
    assert f"error: {OUTPUT}/new: process 7 on far writes this run" in capsys.readouterr().err
    assert json.loads(text(f"{OUTPUT}/new", WRITER))["id"] == "other"


def test_several_processes_are_told_to_mount_it(world, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(InputError, match="2 processes .* Mount the bucket on each host and set"):
        with mirrored(config_of(world, "new")):
            raise AssertionError
    assert names(OUTPUT) == set()


def test_a_run_that_is_refused_leaves_nothing(world, capsys):
    assert train([*sft(world, OUTPUT, "new"), "--model.path=nowhere"]) == 2
    assert 'model.path = "nowhere"' in capsys.readouterr().err
    assert names(OUTPUT) == set()


def test_a_name_that_is_taken_there(world, machine):
    with mirrored(config_of(world, "new")) as (folder, _):
        write_run(folder, 1)
    before = dict(Flaky.store)
    machine("another")
    with pytest.raises(InputError, match=f"{OUTPUT}/new exists. Add --resume to continue it"):
        with mirrored(config_of(world, "new")):
            raise AssertionError
    assert Flaky.store == before, "who wrote it last is still known"
    assert json.loads(text(f"{OUTPUT}/new", WRITER))["ended"]


def test_nothing_to_resume(world, capsys):
    assert train(["--resume", f"--output={OUTPUT}", "--name=new"]) == 2
    assert f'output = "{OUTPUT}/new": there is nothing' in capsys.readouterr().err
    assert names(OUTPUT) == set()


def test_a_run_that_fails_is_uploaded(world):
    with pytest.raises(ZeroDivisionError), mirrored(config_of(world, "new")) as (folder, _):
        write_run(folder, 1)
        (folder / "error.txt").write_text("by zero")
        raise ZeroDivisionError
    assert {"error.txt", f"checkpoints/1/{FILE}"} <= names(f"{OUTPUT}/new")


def test_a_run_that_fails_without_a_server_says_where_it_is(world, capsys):
    with pytest.raises(ZeroDivisionError), mirrored(config_of(world, "new")) as (folder, _):
        write_run(folder, 1)
        Flaky.break_at("/b/", 0)
        raise ZeroDivisionError
    assert f"Everything is in {folder}; go on from this machine: " in capsys.readouterr().out


def test_two_processes_of_one_machine(world, monkeypatch):
    monkeypatch.setattr("cotjax.run.mirrored._WAIT", 0.01)
    config = config_of(world, "new")
    with mirrored(config):
        with pytest.raises(InputError, match="another process of this machine"), mirrored(config):
            raise AssertionError


def test_a_folder_of_this_machine_is_as_before(world):
    config = load(sft(world, world.folder / "runs", "plain"))
    with mirrored(config) as (folder, evaluated):
        evaluated()
        assert folder == world.folder / "runs" / "plain" and not folder.exists()


def test_the_doctor_hears_what_a_bucket_says(world):
    told = check_bucket(config_of(world, "new"))
    assert told.startswith(f"{OUTPUT}/new can be written, and ") and names(OUTPUT) == set()
    with mirrored(config_of(world, "new")) as (folder, _):
        write_run(folder)
    assert check_bucket(config_of(world, "new")).endswith(
        "a run is there, which --resume continues"
    )
    Flaky.break_at("/b/", 0)
    with pytest.raises(InputError, match="cannot be written"):
        check_bucket(config_of(world, "new"))
