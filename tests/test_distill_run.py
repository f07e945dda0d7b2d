"""Distillation from the command line: killed in mid hand-over, and every wrong input refused."""

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from cotjax.cache_logits import main as cache_logits
from cotjax.train import main as train
from tests.test_train import assert_same_run, lines
from tests.tiny import TOKENIZER, flags, without_notes, write_sevens, write_student, write_teachers

# Measured at steps 2, 4, …: the best is set, then nothing is progress enough. The hand-over lasts
# from step 4 to step 10.
ADAPTIVE = (
    *("--curriculum.schedule=adaptive", "--curriculum.check-every=2", "--curriculum.patience=1"),
    *("--curriculum.min-progress=0.9", "--curriculum.handover=6", "--steps=12"),
)
STEP = ("--curriculum.schedule=step", "--steps=4")
LONG = "--rollout.max-prompt-tokens=160", "--batch.sequence-length=192"
KILLED = """
import os, signal, sys
from cotjax.train import main as train
from cotjax.stages.distill_logits import DistillLogitsStage
original = DistillLogitsStage.next_step
def next_step(self, params, step):
    work = original(self, params, step)
    if step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return work
DistillLogitsStage.next_step = next_step
train(sys.argv[1:])
"""


class World:
    """A student, two teachers and their data."""

    def __init__(self, folder):
        self.folder = folder
        self.student = write_student(folder / "student")
        self.data = write_sevens(folder / "sevens.jsonl")
        write_teachers(folder)

    def flags(self, name, *more, teachers=("weak", "strong")):
        own = ["--stage=distill", "--curriculum.buckets=2", "--curriculum.num-monitor=4"]
        own += ["--curriculum.ranking-problems=0"]
        own += ["--teachers.paths", *(str(self.folder / one) for one in teachers)]
        return flags(self.student, self.data, self.folder / "runs", name, *own, *more)

    def train(self, argv):
        """Exit status and output of a run."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            status = train(argv)
        return status, out.getvalue()

    def store(self, name, *more):
        """A folder that python -m cotjax.cache_logits wrote, and the flags it was written with."""
        out = self.folder / name
        argv = [flag for flag in self.flags(name, *STEP, *more) if flag != "--stage=distill"]
        with contextlib.redirect_stdout(io.StringIO()):
            assert cache_logits(["--out", str(out), *argv]) == 0
        return out


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("distill-run"))


def test_a_process_killed_in_mid_hand_over_resumes_to_the_same_run(world):
    status, _ = world.train(world.flags("whole", *ADAPTIVE))
    assert status == 0
    argv = world.flags("killed", *ADAPTIVE)
    done = subprocess.run([sys.executable, "-c", KILLED, *argv], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    killed = world.folder / "runs" / "killed"
    last = lines(killed / "metrics.jsonl")[-1]
    assert last["step"] == 7 and 0 < last["teacher_2"] < 1  # both teach
    assert world.train([*argv, "--resume"])[0] == 0
    assert_same_run(killed, world.folder / "runs" / "whole", step=12)
    assert lines(killed / "metrics.jsonl")[-2]["teacher_2"] == 1


def refused(world, capsys, argv, *words):
    """A run that must stop before it has computed anything, with one message."""
    assert world.train(argv)[0] == 2
    said = without_notes(capsys.readouterr().err)
    assert said.startswith("error: ") and said.count("\n") == 1 and "Traceback" not in said
    for word in words:
        assert word in said


def test_weights_that_do_not_sum_to_1(world, capsys):
    argv = world.flags(
        "weights", "--curriculum.schedule=fixed", "--curriculum.teacher-weights", "0.5", "1"
    )
    refused(
        world, capsys, argv, "curriculum.teacher_weights = [0.5, 1.0]", "sum to 1.5", "sum to 1."
    )


def test_more_buckets_than_examples(world, capsys):
    argv = world.flags("buckets", "--curriculum.buckets=17")
    refused(world, capsys, argv, "curriculum.buckets = 17", "more buckets than the 16 examples")


def test_a_teacher_that_does_not_fit(world, capsys, monkeypatch):
    monkeypatch.setattr("cotjax.teachers.teacher_plan.free_bytes", lambda mesh: 1000)
    words = "GiB per device, which has 0.0 free", str(world.folder / "strong"), "teachers.dtype"
    refused(world, capsys, world.flags("large"), *words)


def test_a_teacher_that_is_not_there(world, capsys):
    argv = world.flags("nobody", teachers=("weak", "nobody"))
    refused(world, capsys, argv, "teachers.paths", str(world.folder / "nobody"))


def test_teachers_in_the_wrong_order_are_warned_about_with_numbers(world):
    shutil.copytree(world.student, world.folder / "right")
    weights = world.folder / "right" / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][TOKENIZER.convert_tokens_to_ids("7")] *= 2  # 7 is what is asked for
    save_file(tensors, weights, metadata={"format": "pt"})
    argv = world.flags("order", "--curriculum.ranking-problems=4", teachers=("right", "weak"))
    status, shown = world.train([*argv, *STEP])
    assert status == 0
    (note,) = [line for line in shown.splitlines() if "not in the order weak to strong" in line]
    assert f"on 4 problems {world.folder / 'right'} solves 100.0%" in note
    assert f"{world.folder / 'weak'} solves 0.0%" in note


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--teachers.top-k=8"], ("was made with top_k = 16, this run has 8", "teachers.top_k")),
        (["--data.templates=bridge", *LONG], ("was made with template =", "data.prompt")),
        (["--seed=4"], ("was made with data =", "seed")),
        (["--distill.temperature=2"], ("temperature = 1.0, this run has 2.0",)),
    ],
)
def test_a_store_of_something_else(world, capsys, flags, words):
    if not (world.folder / "store").exists():
        world.store("store")
    argv = world.flags("other", *STEP, f"--teachers.cache={world.folder / 'store'}", *flags)
    refused(world, capsys, argv, *words)


def test_a_store_with_another_tokenizer(world, capsys):
    if not (world.folder / "store").exists():
        world.store("store")
    path = world.folder / "store" / "manifest.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"tokenizer": "0123456789abcdef"}))
    argv = world.flags("tokenizer", *STEP, f"--teachers.cache={path.parent}")
    words = "was made with tokenizer = 0123456789abcdef", "Take the student whose tokenizer"
    refused(world, capsys, argv, *words)
    path.write_text(before)


def test_a_shard_that_was_cut_off(world, capsys):
    store = world.store("cut")
    shard = sorted(store.glob("*.array_record"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    argv = world.flags("cut-off", *STEP, f"--teachers.cache={store}")
    refused(world, capsys, argv, shard.name, "so it was cut off", "cotjax.cache_logits")


def test_a_store_trains(world):
    store = world.store("good")
    status, _ = world.train(world.flags("stored", *STEP, f"--teachers.cache={store}"))
    assert status == 0
    assert [line["teacher_2"] for line in lines(world.folder / "runs" / "stored" / "metrics.jsonl")
            if line["kind"] == "train"] == [0, 0, 1, 1]  # fmt: skip
