"""One process owns a run folder; a second hears which, and a dead one's lock is taken over."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.run.early import check_run
from cotjax.run.lock import owned

HOLDS = """
import pathlib, sys, time
from cotjax.run.lock import owned
with owned(pathlib.Path(sys.argv[1]), resume=False):
    (pathlib.Path(sys.argv[1]) / "config.toml").touch()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_owner_hears_who_is_the_first(tmp_path):
    folder = tmp_path / "run"
    with owned(folder, resume=False):
        row = json.loads((folder / "owner.json").read_text())
        assert (row["pid"], row["host"]) == (os.getpid(), socket.gethostname())
        with pytest.raises(InputError) as error, owned(folder, resume=False):
            raise AssertionError("two own it")
        assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in str(error.value)
        assert (folder / "owner.json").exists(), "the second took the first one's away"
    assert not folder.exists()


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_who_begins_or_resumes_a_run_that_another_writes_hears_of_that_one(tmp_path, flags):
    folder = tmp_path / "new"
    config = load([f"--output={tmp_path}", "--name=new", *flags])
    with owned(folder, resume=False):
        (folder / "config.toml").touch()
        with pytest.raises(InputError, match=f"new: process {os.getpid()} on .* is writing this"):
            check_run(config, folder)
        owner = (folder / "owner.json").read_bytes()
    (folder / "owner.json").write_bytes(owner)  # as after a kill: the lock is free
    if config.resume:
        check_run(config, folder)
    else:
        with pytest.raises(InputError, match="exists. Add --resume"):
            check_run(config, folder)


def test_a_folder_in_which_a_run_began_stays_and_can_be_owned_again(tmp_path):
    with owned(tmp_path, resume=False):
        (tmp_path / "config.toml").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", ".lock"}
    with owned(tmp_path, resume=True):
        pass
    with pytest.raises(InputError, match="exists. Add --resume"), owned(tmp_path, resume=False):
        raise AssertionError("a run that has begun was begun again")


def test_an_error_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), owned(tmp_path / "run", resume=False):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run: cannot be written"):
        with owned(tmp_path / "file" / "run", resume=False):
            raise AssertionError("it was made")


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"process {other.pid} on"):
            with owned(folder, resume=True):
                raise AssertionError("two own it")
        other.send_signal(signal.SIGKILL)
        other.wait()
        with owned(folder, resume=True):
            assert json.loads((folder / "owner.json").read_text())["pid"] == os.getpid()
