"""The local copy of a run: its record, its lock, and what of it belongs into the bucket."""

import pytest

from cotjax.errors import InputError
from cotjax.remote.local import LocalCopy, is_text, split_step, stat_of
from tests.remote.buckets import write_run, write_step

URL = "flaky://b/runs/one"


@pytest.fixture
def local():
    return LocalCopy(URL)


def test_the_record_is_kept(local):
    write_run(local.folder)
    local.writer, file = "me", local.folder / "config.toml"
    local.files["config.toml"] = "mark", stat_of(file)
    local.save()
    again = LocalCopy(URL)
    assert (again.writer, again.files) == ("me", {"config.toml": ("mark", stat_of(file))})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {"a": 1}, "writer": "me"}'])
def test_a_damaged_record_knows_nothing(local, text):
    local.writer = "me"
    local.save()
    local._record.write_text(text)
    again = LocalCopy(URL)
    assert (again.writer, again.files) == ("", {})


def test_one_holds_the_lock(local):
    with local.locked(0) as mine, LocalCopy(URL).locked(0) as theirs:
        assert mine and not theirs
    with LocalCopy(URL).locked(0) as theirs:
        assert theirs
    assert not local.folder.exists(), "an empty folder would take the name"


def test_no_place_for_the_copies(local, machine, tmp_path):
    (tmp_path / "file").touch()
    machine("file")
    with (
        pytest.raises(InputError, match="Set COTJAX_BUCKETS to a folder"),
        LocalCopy(URL).locked(0),
    ):
        raise AssertionError


def test_what_belongs_into_the_bucket(local):
    write_run(local.folder, 3)
    write_run(local.folder / "1-sft", 2)
    (local.folder / "damaged" / "2").mkdir(parents=True)
    for name in (".lock", "owner.json", "a.tmp", "damaged/2/state", "1-sft/.lock"):
        (local.folder / name).touch()
    (local.folder / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    (local.folder / "checkpoints" / "8").mkdir()
    texts = {"config.toml", "metrics.jsonl", "1-sft/config.toml", "1-sft/metrics.jsonl"}
    assert {*local.texts()} == texts
    assert {*local.steps()} == {"checkpoints/3", "1-sft/checkpoints/2"}
    assert local.texts()["config.toml"] == stat_of(local.folder / "config.toml")


def test_what_is_not_there_holds_nothing(local):
    assert local.texts() == {} and local.steps() == [] and not local.begun


def test_it_is_set_aside_whole(local):
    write_run(local.folder, 3)
    local.writer = "me"
    assert local.set_aside().name == "one.aside-1" and not local.folder.exists()
    write_run(local.folder, 4)
    aside = local.set_aside()
    assert (aside / "checkpoints" / "4").is_dir() and local.writer == ""


def test_names_of_checkpoints():
    assert split_step("checkpoints/30/state/d/1") == ("", 30, "state/d/1")
    assert split_step("2-grpo/checkpoints/30") == ("2-grpo/", 30, "")
    assert split_step("metrics.jsonl") is split_step("checkpoints/a/b") is None
    assert is_text("metrics.jsonl") and is_text("1-sft/mined.jsonl") and is_text("checkpoints")
    assert not is_text("checkpoints/1/x") and not is_text("damaged/1/x")


@pytest.mark.parametrize("name", ["checksums.json", "commit_success.txt"])
def test_a_step_counts_when_all_is_written(local, name):
    write_step(local.folder, 1)
    assert local.steps() == ["checkpoints/1"]
    (local.folder / "checkpoints" / "1" / name).unlink()
    assert local.steps() == []
