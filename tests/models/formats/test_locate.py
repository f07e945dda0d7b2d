"""What lies behind a model's name: a built-in one, a folder, a file, a run."""

import subprocess
import sys

import pytest

from cotjax.errors import InputError
from cotjax.models.formats.locate import find_run, resolve, weight_bytes


def test_a_name_is_built_in_a_folder_or_a_gguf_file(tmp_path):
    assert (resolve("tiny") / "model.safetensors").is_file()
    assert weight_bytes("tiny") > 2**20
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "a.gguf").write_bytes(b"12345")
    assert resolve(str(tmp_path / "a.gguf")) == tmp_path / "a.gguf"
    assert weight_bytes(str(tmp_path / "a.gguf")) == 5


def test_nothing_there_names_the_key(tmp_path):
    with pytest.raises(InputError, match='^teachers.paths = "": not a folder'):
        resolve("", "teachers.paths")


def test_a_run_is_found_by_its_folder_or_by_one_of_its_checkpoints(tmp_path):
    run = tmp_path / "run"
    for step in (4, 6):
        (run / "checkpoints" / str(step)).mkdir(parents=True)
    assert find_run(run) is None
    (run / "config.toml").touch()
    assert find_run(run) == find_run(run / "checkpoints" / "4") == run
    assert find_run(tmp_path) is None
    with pytest.raises(InputError, match="5: not there; .* has 4, 6"):
        find_run(run / "checkpoints" / "5")


def test_no_jax_is_imported_to_find_out():
    code = "import sys, cotjax.models.formats.locate; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
