"""A step is taken again from the checkpoint before it, with the settings that it had."""

import pathlib
import shutil

import pytest

import cotjax
from cotjax.config import load
from cotjax.errors import InputError
from cotjax.run.folder import write_config
from cotjax.run.recompute import recompute, start_before
from cotjax.run.written import WrittenRun


def test_a_stage_of_a_list_begins_from_the_one_before(listed):
    folder = listed.folder / "2-half"
    replayed = recompute(WrittenRun(folder), 2)
    assert replayed.equal and replayed.start == 1 and not replayed.notes
    with pytest.raises(InputError, match=r"is a list of stages.*1-reconstruct.*3-alone"):
        WrittenRun(listed.folder)


def test_a_step_that_a_resumed_part_took_with_other_settings(world, tmp_path):
    """Of a schedule that goes on to a new end, the first part had the old one."""
    flags = ["--optimizer.schedule=linear", "--checkpoint.keep=9"]
    run = cotjax.train(world.config("longer", "--stage=grpo", *flags))
    again = world.flags("longer", "--stage=grpo", *flags, "--resume")
    cotjax.train(load([*again, "--steps=4"]))
    replayed = recompute(WrittenRun(run.folder), 2)
    assert replayed.equal, replayed.findings
    copy = pathlib.Path(shutil.copytree(run.folder, tmp_path / "longer"))
    shutil.rmtree(copy / "checkpoints")
    replayed = recompute(WrittenRun(copy), 4)
    told = "the run was resumed between step 0 and 4; all of them are taken again with the settings"
    assert any(told in note for note in replayed.notes)
    assert replayed.earlier is not None and not replayed.equal
    assert replayed.earlier[0] == 3  # step 2 was the last of a run of two, and taught less


@pytest.fixture
def kept(tmp_path):
    """A run of which the checkpoints of steps 4 and 6 stay."""
    write_config(tmp_path, load(["--stage=sft", "--name=x"]))
    for step in (4, 6):
        folder = tmp_path / "checkpoints" / str(step)
        (folder / "state").mkdir(parents=True)
        (folder / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 1}')
    return tmp_path


def test_the_newest_whole_checkpoint_before_the_step(kept):
    written = WrittenRun(kept)
    assert start_before(written, 7) == (6, ())
    assert start_before(written, 6) == start_before(written, 5) == (4, ())
    start, notes = start_before(written, 4)
    assert start == 0 and "(there are those of steps 4, 6), so the run is taken again" in notes[0]
    assert "from its start: 4 steps. checkpoint.keep says how many stay." in notes[0]
    shutil.rmtree(kept / "checkpoints" / "6" / "state")
    start, notes = start_before(written, 7)
    assert start == 4 and notes == (
        f"{kept / 'checkpoints' / '6'} is damaged (state is missing), so it is not used.",
    )
    shutil.rmtree(kept / "checkpoints")
    assert "(none is)" in start_before(written, 1)[1][0]
