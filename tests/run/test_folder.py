"""What marks a run folder as taken, begun or ended, in one piece each."""

import dataclasses
import json

import pytest

from cotjax.config import Config, load
from cotjax.errors import InputError
from cotjax.run.folder import (
    check_folder,
    forget_unbegun,
    keep_traceback,
    write_config,
    write_result,
)


@pytest.fixture
def config(tmp_path):
    return Config.for_stage("grpo", name="run", output=str(tmp_path))


def test_a_config_is_written_whole_and_repeats_the_run(tmp_path, config):
    folder = tmp_path / "run"
    write_config(folder, dataclasses.replace(config, resume=True))
    assert [path.name for path in folder.iterdir()] == ["config.toml"]
    assert load(["--config", str(folder / "config.toml")]) == config


def test_a_result_is_written_whole(tmp_path):
    write_result(tmp_path, {"steps": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text()) == {"steps": 3}


def test_a_new_run_needs_a_free_folder(tmp_path, config):
    folder = tmp_path / "run"
    check_folder(folder, resume=False)
    write_config(folder, config)
    with pytest.raises(InputError, match="run exists. Add --resume to continue it"):
        check_folder(folder, resume=False)
    check_folder(folder, resume=True)


def test_a_config_that_was_half_written_a_lock_and_a_traceback_take_no_folder(tmp_path):
    for name in ("config.toml.tmp", ".lock", "owner.json", "error.txt"):
        (tmp_path / name).touch()
    check_folder(tmp_path, resume=False)


def test_an_unexpected_error_is_kept_and_says_where(tmp_path):
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError as error:
        keep_traceback(tmp_path, error)
        assert error.__notes__ == [f"The traceback is in {tmp_path / 'error.txt'}."]
    text = (tmp_path / "error.txt").read_text()
    assert text.startswith("Traceback") and text.endswith("ZeroDivisionError: by zero\n")


def test_a_folder_of_a_run_that_did_not_begin_is_emptied(tmp_path, config):
    folder = tmp_path / "run"
    write_config(folder, config)
    forget_unbegun(folder)
    assert not folder.exists()
    write_config(folder, config)
    (folder / ".lock").touch()
    forget_unbegun(folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_only_a_run_that_was_begun_is_resumed(tmp_path):
    with pytest.raises(InputError, match="--resume: .* is not a run"):
        check_folder(tmp_path / "run", resume=True)


def test_a_file_in_the_place_of_the_folder(tmp_path, config):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be a run folder"):
        check_folder(tmp_path / "file", resume=False)
    with pytest.raises(InputError, match="cannot be written"):
        write_config(tmp_path / "file", config)
