"""Faults planted into a run of the loop: nothing whole is lost, and it goes on to the same bits."""

import errno
import json
import os
import signal
import time

import jax
import numpy as np
import pytest

from cotjax import storage
from cotjax.errors import InputError, NotFinite, Stopped
from cotjax.training import checkpoint as checkpoints
from cotjax.training.signals import StopSignals
from tests.training.test_loop import Stop, Sums, checkpoint, lines, run, written

EVERY = {"checkpoint_every": 2, "keep": 3}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, run(folder, **EVERY)[1]


@pytest.fixture
def broken(tmp_path):
    """A run that an error ended in its fifth step, with checkpoints of steps 2 and 4."""
    with pytest.raises(Stop):
        run(tmp_path, Sums(stop_at=4), **EVERY)
    return tmp_path


def goes_on(folder, unbroken, **more):
    """What a resumed run prints, after a look whether it ends as the unbroken one did."""
    _, result, shown = run(folder, resume=True, **EVERY, **more)
    assert result == unbroken[1]
    one, other = (checkpoint(where, 5) for where in (folder, unbroken[0]))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    return " ".join(shown.split())


def flip(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def full(monkeypatch, part, after):
    """A disk that is full for files whose name has a part, from a number of writes on."""
    write, count = storage._write, [0]

    def limited(path, data, how):
        if part in path.name:
            count[0] += 1
            if count[0] > after:
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data, how)

    monkeypatch.setattr(storage, "_write", limited)


# Damage.


def test_a_step_that_raises_waits_for_the_checkpoint_being_written(tmp_path, monkeypatch):
    write = checkpoints.write_checksums

    def slow(folder):
        time.sleep(1)
        write(folder)

    monkeypatch.setattr(checkpoints, "write_checksums", slow)
    with pytest.raises(Stop) as error:
        run(tmp_path, Sums(stop_at=2), **EVERY)
    assert (tmp_path / "checkpoints" / "2" / "checksums.json").is_file()
    assert error.value.__notes__ == ["The run is whole up to step 2: --resume goes on from there."]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(broken, unbroken):
    flip(broken / "checkpoints" / "4" / "state")
    shown = goes_on(broken, unbroken)
    assert "the newest checkpoint is damaged (4/state/" in shown
    assert "The newest whole one, after step 2, is used: 2 steps are lost." in shown
    assert (broken / "damaged" / "4").is_dir()
    assert written(broken) == written(unbroken[0])


def test_when_all_are_damaged_nothing_begins_anew(broken):
    for step in (2, 4):
        flip(broken / "checkpoints" / str(step) / "state")
    before = written(broken)
    with pytest.raises(InputError, match="no checkpoint is whole"):
        run(broken, resume=True, **EVERY)
    assert written(broken) == before


def test_files_of_lines_that_are_cut_or_damaged_are_repaired(broken, unbroken):
    path = broken / "metrics.jsonl"
    data = path.read_bytes().splitlines(keepends=True)
    data[0] = data[0][:9] + b"\n"  # the evaluation before training
    data[2] = b"\x00" * 7 + b"\xff\n"  # a step
    path.write_bytes(b"".join(data)[:-11])
    rows = (broken / "completions.jsonl").read_bytes()
    (broken / "completions.jsonl").write_bytes(rows[: len(rows) // 2])
    shown = goes_on(broken, unbroken)
    assert "metrics.jsonl: 2 lines were damaged and are left out." in shown
    assert "metrics.jsonl: lacks step 2 that were taken; the curves have a gap there." in shown
    expected = [
        line for line in written(unbroken[0])[0] if (line["step"], line["kind"]) != (2, "train")
    ]
    assert written(broken)[0] == expected
    assert all(row in written(unbroken[0])[1] for row in lines(broken / "completions.jsonl"))


# NaN in what is there.


def test_a_checkpoint_that_holds_a_nan_is_not_used_and_the_way_on_works(
    broken, unbroken, monkeypatch
):
    manager = checkpoints.Checkpoints(broken, keep=9)
    state, place = manager.restore(4, Sums().state)
    state.params["w"] = state.params["w"] * np.nan
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "check_finite", lambda *_: None)
        manager.save(5, state, place)
        manager.close()
    planted = broken / "checkpoints" / "5"
    with pytest.raises(NotFinite) as error:
        run(broken, resume=True, **EVERY)
    assert str(error.value) == (
        f"checkpoint {planted}: 1 of 1 numbers of params.w are NaN or infinite. Move it away: "
        "--resume goes on from the one before it."
    )
    planted.rename(broken / "elsewhere")  # the advice
    goes_on(broken, unbroken)


# A full disk.


@pytest.mark.parametrize(
    ("part", "after"), [("metrics.jsonl", 5), ("completions.jsonl", 4), ("checksums.json", 1)]
)
def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_space(
    tmp_path, unbroken, monkeypatch, part, after
):
    with monkeypatch.context() as patch, pytest.raises(InputError) as error:
        full(patch, part, after)
        run(tmp_path, **EVERY)
    assert "cannot be written (No space left on device). Make space there" in str(error.value)
    for name in ("metrics.jsonl", "completions.jsonl"):
        text = (tmp_path / name).read_text()
        assert text.endswith("\n") and [json.loads(line) for line in text.splitlines()]
    goes_on(tmp_path, unbroken)
    assert written(tmp_path) == written(unbroken[0])


# Signals.


class Signalled(Sums):
    """The same; a signal comes in a step, or in an evaluation."""

    def __init__(self, step=None, evaluation=None, number=signal.SIGTERM):
        super().__init__()
        self.step, self.evaluation, self.number = step, evaluation, number

    def next_step(self, params, step):
        if step == self.step:
            os.kill(os.getpid(), self.number)
        return super().next_step(params, step)

    def evaluate(self, params):
        if self.evaluations == self.evaluation:
            os.kill(os.getpid(), self.number)
            time.sleep(5)  # which the signal breaks off
            raise AssertionError("the evaluation went on")
        return super().evaluate(params)


@pytest.mark.parametrize(
    ("stage", "step", "status"),
    [
        (Signalled(step=2), 3, 143),
        (Signalled(step=2, number=signal.SIGINT), 3, 130),
        (Signalled(evaluation=1), 2, 143),
    ],
    ids=["SIGTERM", "SIGINT", "in an evaluation"],
)
def test_a_signal_lets_the_step_end_and_saves_it(tmp_path, unbroken, stage, step, status):
    with StopSignals() as signals, pytest.raises(Stopped) as stopped:
        run(tmp_path, stage, signals=signals, **EVERY)
    assert stopped.value.status == status
    said = f"The run is saved after step {step}: --resume goes on from there."
    assert str(stopped.value).endswith(said)
    goes_on(tmp_path, unbroken)
    assert written(tmp_path) == written(unbroken[0])


def test_a_signal_before_the_first_step_begins_again(tmp_path):
    with StopSignals() as signals, pytest.raises(Stopped, match="Nothing is trained yet"):
        run(tmp_path, Signalled(evaluation=0), signals=signals, **EVERY)
