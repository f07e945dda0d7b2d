"""What lies behind a model's name: a built-in one, a folder, a file, a run."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.models.formats import locate
from cotjax.models.formats.load import load_model
from cotjax.models.formats.locate import find_run, resolve, shapes_only, weight_bytes
from cotjax.models.policy import Policy
from tests.fake_hub import FakeHub, point_at, serving


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


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = FakeHub()
    hub.add_folder("owner/tiny", resolve("tiny"))
    hub.repositories["models", "owner/tiny"]["main"]["onnx/model.onnx"] = b"1"
    hub.add("owner/gguf", {"model.gguf": b"GGUF"})
    with serving(hub) as address:
        point_at(monkeypatch, address, tmp_path / "cache")
        locate._from_hub.cache_clear()
        yield hub
    locate._from_hub.cache_clear()


def test_a_name_of_the_hub_is_fetched_without_what_is_not_read(hub):
    found = resolve("owner/tiny")
    assert weight_bytes("owner/tiny") == weight_bytes("tiny")
    assert {path.name for path in found.iterdir()} >= {"config.json", "tokenizer.json"}
    assert not any("onnx" in path for path in hub.got if "/resolve/" in path)
    asked = len(hub.asked)
    assert resolve("owner/tiny") == found and len(hub.asked) == asked, "the hub is asked once"


def test_a_run_that_is_found_has_the_model_that_it_began_from(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("cotjax.hub._pinned", {})
    before = resolve("owner/tiny")
    hub.add("owner/tiny", hub.repositories["models", "owner/tiny"]["main"], revision="then")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.toml").touch()
    then = hub.sha("models", "owner/tiny", "then")
    (run / "parts.json").write_text(json.dumps([{"hub": {"model owner/tiny": then}}]))
    assert find_run(run) == run
    assert resolve("owner/tiny").name == then != before.name


def test_for_shapes_alone_no_weights_are_fetched(hub):
    with shapes_only():
        found = resolve("owner/tiny")
    assert (found / "config.json").is_file()
    assert not any("safetensors" in path for path in hub.got if "/resolve/" in path)
    assert weight_bytes("owner/tiny") == weight_bytes("tiny")  # a run fetches them


def test_a_local_folder_of_that_name_wins(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    assert resolve("owner/tiny") == Path("owner/tiny") and not hub.asked


def test_a_repository_without_a_config_is_no_model(hub):
    with pytest.raises(InputError, match='"owner/gguf": its repository has no config.json'):
        resolve("owner/gguf")


def test_a_typo_in_a_path_says_that_the_hub_was_asked_too(hub):
    with pytest.raises(InputError, match='"runs/frist": no such file or folder here, and http'):
        resolve("runs/frist")


def test_a_model_of_the_hub_loads_as_the_folder_does(hub):
    def numbers(path):
        model = load_model(
            path, init="pretrained", param_dtype="float32", compute_dtype="float32", seed=0
        )
        return jax.tree.leaves(Policy.split(model.model)[1])

    for one, other in zip(numbers("owner/tiny@main"), numbers("tiny"), strict=True):
        np.testing.assert_array_equal(one, other)
