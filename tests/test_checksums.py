"""Every file of a checkpoint is compared before it is used: what is wrong with it is named."""

import json
import shutil

import pytest

from cotjax.checksums import (
    ENDED,
    FILE,
    ORBAX,
    damage,
    lost,
    newest_whole,
    steps_in,
    write_checksums,
)
from cotjax.errors import InputError


def write_checkpoint(folder, step):
    """What a checkpoint looks like on the disk."""
    path = folder / str(step)
    (path / "state" / "d").mkdir(parents=True)
    (path / "run").mkdir()
    for name in ("state/d/array", "state/_METADATA", "run/metadata"):
        (path / name).write_bytes(f"{step} {name}".encode() * 100)
    write_checksums(path)
    (path / ORBAX).write_text(json.dumps({"commit_timestamp_nsecs": 1}))
    (path / ENDED).touch()


@pytest.fixture
def folder(tmp_path):
    for step in (2, 4, 6):
        write_checkpoint(tmp_path, step)
    (tmp_path / "8.orbax-checkpoint-tmp").mkdir()
    return tmp_path


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FAULTS = {
    "state/d/array was changed": lambda path: flip(path / "state/d/array"),
    "state/_METADATA was changed": lambda path: flip(path / "state/_METADATA"),
    "state/d/array has 5 bytes of 1,500": lambda path: (path / "state/d/array").write_text("12345"),
    "state/d/array is missing": lambda path: (path / "state/d/array").unlink(),
    "run/metadata is missing": lambda path: shutil.rmtree(path / "run"),
    "state is missing": lambda path: shutil.rmtree(path / "state"),
    f"{FILE} is missing": lambda path: (path / FILE).unlink(),
    f"{FILE} is damaged": lambda path: (path / FILE).write_text('{"state'),
    f"{ORBAX} is missing": lambda path: (path / ORBAX).unlink(),
    f"{ORBAX} is damaged": lambda path: (path / ORBAX).write_text('{"com'),
}


def test_what_is_whole_is_whole(folder):
    assert [damage(folder / str(step)) for step in (2, 4, 6)] == [""] * 3
    assert newest_whole(folder) == (6, {}) and steps_in(folder) == [6, 4, 2]


@pytest.mark.parametrize("said", FAULTS)
def test_a_fault_is_named_and_the_newest_whole_one_is_found(folder, said):
    FAULTS[said](folder / "6")
    step, damaged = newest_whole(folder)
    assert step == 4 and damaged[6].startswith(said)
    told = lost(folder, 4, damaged)
    assert f"the newest checkpoint is damaged (6/{said}" in told
    assert told.endswith("after step 4, is used: 2 steps are lost.")


def test_what_was_whole_a_moment_ago_is_looked_at_again(folder):
    assert damage(folder / "6") == ""
    flip(folder / "6" / "state/d/array")
    assert "was changed" in damage(folder / "6")


def test_none_whole_is_an_error_and_no_new_start(folder):
    for step, said in zip((2, 4, 6), list(FAULTS)[:3], strict=True):
        FAULTS[said](folder / str(step))
    with pytest.raises(InputError) as error:
        newest_whole(folder)
    assert "no checkpoint is whole (6/state/d/array has 5" in str(error.value)
    assert "Bring the files back from a copy" in str(error.value)


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_whole(tmp_path / "nowhere") == (None, {})


def test_a_half_written_one_does_not_count(folder):
    for name in (FILE, ENDED):
        (folder / "6" / name).unlink()
    assert newest_whole(folder) == (4, {})


def test_one_of_an_earlier_version_is_taken_as_it_is(folder):
    (folder / "6" / FILE).unlink()
    shutil.rmtree(folder / "6" / "run")
    assert newest_whole(folder) == (6, {})
