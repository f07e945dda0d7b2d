"""Folders: what is saved is loaded bit for bit, here and by transformers; damage is named."""

import functools
import importlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cotjax.errors import InputError
from cotjax.models.formats import huggingface
from cotjax.models.formats.families import FAMILIES
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.rope import Rope
from cotjax.models.transformer import Architecture, Transformer
from tests.models.make_golden import CASES, GOLDEN
from tests.models.test_parity import needs_torch, our_logits

SHAPES = {
    "llama": {"tie_embeddings": True},
    "qwen2": {"tie_embeddings": False, "qkv_bias": True},
    "qwen3": {"tie_embeddings": False, "qk_norm": True},
    "smollm3": {"tie_embeddings": True, "nope_layers": (1,)},
    "granite": {
        "tie_embeddings": False,
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.0156,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "gemma3_text": {
        **FAMILIES["gemma3_text"].fixed,
        "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
        "sliding_window": 3,
        "local_rope": Rope(100.0),
        "rope": Rope(10_000.0, "linear", 2.0),
        "query_scalar": 5,
    },
}


@functools.cache
def make_model(family: str, param_dtype: Any = jnp.float32) -> Transformer:
    """A decoder for the tiny tokenizer in which every parameter is random, biases included."""
    shape = Architecture(family, 424, 32, 3, 4, 2, 8, 48, **SHAPES[family])
    model = Transformer(shape, rngs=nnx.Rngs(0), param_dtype=param_dtype)
    definition, params = nnx.split(model)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(lambda x: (x + 0.1 * rng.normal(size=x.shape)).astype(x.dtype), params)
    return nnx.merge(definition, noisy)


def assert_same_model(a: Transformer, b: Transformer) -> None:
    (definition, params), (other_definition, other_params) = nnx.split(a), nnx.split(b)
    assert definition == other_definition
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    jax.tree.map(lambda x, y: np.testing.assert_equal(x.dtype, y.dtype), params, other_params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", SHAPES)
def test_save_then_load_is_bit_exact(family: str, dtype: str, tmp_path: Path) -> None:
    model = make_model(family, param_dtype=jnp.dtype(dtype))
    huggingface.save(model, tmp_path / "one")
    huggingface.save(model, tmp_path / "many", max_shard_bytes=20_000)
    assert_same_model(huggingface.load(tmp_path / "one", param_dtype=jnp.dtype(dtype)), model)
    assert_same_model(huggingface.load(tmp_path / "many", param_dtype=jnp.dtype(dtype)), model)


@pytest.mark.parametrize("case", CASES)
def test_load_then_save_keeps_every_tensor(case: str, tmp_path: Path) -> None:
    huggingface.save(huggingface.load(GOLDEN / case), tmp_path)
    theirs = load_file(GOLDEN / case / "model.safetensors")
    ours = load_file(tmp_path / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


def test_parameters_are_rounded_to_their_format(tmp_path: Path) -> None:
    model = make_model("llama")
    huggingface.save(model, tmp_path / "float32")
    huggingface.save(model, tmp_path / "bfloat16", dtype="bfloat16")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), nnx.state(model))
    for folder in ("float32", "bfloat16"):
        loaded = huggingface.load(tmp_path / folder, param_dtype=jnp.bfloat16)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), rounded)


def test_shards_keep_their_size_and_leave_nothing_stale(tmp_path: Path) -> None:
    model = make_model("qwen2")
    huggingface.save(model, tmp_path, max_shard_bytes=60_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    sizes = [sum(t.nbytes for t in load_file(path).values()) for path in shards]
    assert len(shards) > 2
    assert max(sizes) <= 60_000
    assert index["metadata"]["total_size"] == sum(sizes)
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    huggingface.save(model, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]


def test_repeated_head_of_a_tied_model_is_read_if_it_is_the_embedding(tmp_path: Path) -> None:
    model = make_model("llama")
    huggingface.save(model, tmp_path)
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert_same_model(huggingface.load(tmp_path), model)
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": -t["lm_head.weight"]}))
    with pytest.raises(InputError, match=r"lm_head\.weight differs.*tie_word_embeddings"):
        huggingface.load(tmp_path)


def test_rotary_frequencies_in_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    huggingface.save(make_model("llama"), tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(tmp_path, lambda t: t.update({name: np.zeros(4, np.float32)}))
    huggingface.load(tmp_path)


def change_tensors(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def remove(name: str) -> Any:
    return lambda folder: change_tensors(folder, lambda tensors: tensors.pop(name))


def replace(name: str, *shape: int) -> Any:
    new = np.zeros(shape, np.float32)
    return lambda folder: change_tensors(folder, lambda tensors: tensors.update({name: new}))


def truncate(keep: int) -> Any:
    def cut(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return cut


def stretch_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((10**9).to_bytes(8, "little") + path.read_bytes()[8:])


def lie_about_a_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"[48,32]", b"[32,32]", 1))


def store_as_integers(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.norm.weight": np.ones(32, np.int32)}))


def point_to_git_lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def shard_and_lose_one(folder: Path) -> None:
    huggingface.save(make_model("llama"), folder, max_shard_bytes=60_000)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def shard_and_change_the_index(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        huggingface.save(make_model("llama"), folder, max_shard_bytes=60_000)
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        first, *_, last = sorted(set(index["weight_map"].values()))
        swapped = {tensor: last for tensor, name in index["weight_map"].items() if name == first}
        new = index["weight_map"] | swapped
        given = {key: new if value == "swapped" else value for key, value in changes.items()}
        path.write_text(json.dumps(index | given))

    return change


DAMAGE = {
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        r'no weights.*model\.safetensors.*config\.json.*model\.init = "random"',
    ),
    "missing tensor": (
        remove("model.layers.1.mlp.up_proj.weight"),
        r"model\.layers\.1\.mlp\.up_proj\.weight \(48, 32\) is missing",
    ),
    "missing head": (
        lambda folder: change_config(folder, tie_word_embeddings=False),
        r"lm_head\.weight \(424, 32\) is missing",
    ),
    "extra tensor": (
        replace("model.layers.3.mlp.up_proj.weight", 48, 32),
        r"model\.layers\.3\.mlp\.up_proj\.weight \(48, 32\) has no place",
    ),
    "wrong shape": (
        replace("model.layers.0.self_attn.k_proj.weight", 32, 32),
        r"k_proj\.weight has shape \(32, 32\).*needs \(16, 32\)",
    ),
    "truncated file": (
        truncate(-1000),
        r"model\.safetensors: not a complete safetensors file \(.*not fully covered\)",
    ),
    "truncated header": (truncate(100), "not a complete safetensors file .*header length"),
    "empty file": (truncate(0), "not a complete safetensors file.*empty"),
    "few bytes": (truncate(5), "not a complete safetensors file.*header too small"),
    "header of a gigabyte": (stretch_header, r"safetensors file \(a header of 1,000,000,000 bytes"),
    "not a safetensors file": (point_to_git_lfs, "not a complete safetensors file"),
    "shape and bytes differ": (lie_about_a_shape, "not a complete safetensors file.*invalid shape"),
    "integers": (store_as_integers, "model.norm.weight is stored as I32.*F32, F16, BF16"),
    "lost shard": (shard_and_lose_one, "names model-00002-of-0000[0-9].safetensors, which"),
    "index of other files": (
        shard_and_change_the_index(weight_map="swapped"),
        r"says that model-0000\d-of-0000\d.safetensors holds tensor .*, which it does not",
    ),
    "index without a map": (
        shard_and_change_the_index(weight_map=None),
        '"weight_map" names no files',
    ),
    "index that is a list": (
        shard_and_change_the_index(weight_map=[1]),
        '"weight_map" names no files',
    ),
    "index of numbers": (
        shard_and_change_the_index(weight_map={"model.norm.weight": 3}),
        "weight_map.model.norm.weight = 3 names no file",
    ),
    "index of another folder": (
        shard_and_change_the_index(weight_map={"model.norm.weight": "../other.safetensors"}),
        "names no file",
    ),
    "config is not JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        r"config\.json: cannot read this JSON",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        r"config\.json: holds a list",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot read"),
    "unknown architecture": (
        lambda folder: change_config(folder, model_type="mamba"),
        'model_type = "mamba"',
    ),
}


def change_config(folder: Path, **options: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folder_is_named(damage: str, tmp_path: Path) -> None:
    do, message = DAMAGE[damage]
    huggingface.save(make_model("llama"), tmp_path)
    do(tmp_path)
    with pytest.raises(InputError, match=f"(?s){message}"):
        huggingface.load(tmp_path)


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/inside: cannot write here"):
        huggingface.save(make_model("llama"), tmp_path / "file" / "inside")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "No space left on device (os error 28)"

    def refuse(*_: Any, **__: Any) -> None:
        raise SafetensorError(full)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left"):
        patch.setattr(huggingface, "save_file", refuse)
        huggingface.save(make_model("llama"), tmp_path)

    class Tokenizer:
        def save_pretrained(self, folder: Path) -> None:
            raise Exception(full)

    with pytest.raises(InputError, match="cannot write here .No space left"):
        huggingface.save(make_model("llama"), tmp_path, tokenizer=Tokenizer())


def test_saved_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(resolve("tiny"))
    huggingface.save(make_model("llama"), tmp_path, tokenizer=tokenizer)
    saved = load_tokenizer(tmp_path)
    text = "Ann has 12 apples; she buys 345 more.\n#### 357<|end|>"
    assert saved.encode(text) == tokenizer.encode(text)
    assert saved.eos_token_id == tokenizer.eos_token_id
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # A name that other versions of transformers, and vLLM, know.
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("max_shard_bytes", [60_000, 10**9])
@pytest.mark.parametrize("family", SHAPES)
def test_transformers_loads_and_generates(
    family: str, max_shard_bytes: int, dtype: str, tmp_path: Path
) -> None:
    import transformers

    torch = importlib.import_module("torch")
    model = make_model(family)
    tokenizer = load_tokenizer(resolve("tiny"))
    huggingface.save(
        model, tmp_path, tokenizer=tokenizer, dtype=dtype, max_shard_bytes=max_shard_bytes
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == getattr(torch, dtype)
    assert theirs.generation_config.eos_token_id == tokenizer.eos_token_id
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    prompt = their_tokenizer("Ann has 12 apples.", return_tensors="pt")
    generated = theirs.generate(**prompt, max_new_tokens=5, do_sample=False)
    row = np.asarray(generated, np.int32)
    segment = np.ones_like(row)
    batch = {"tokens": row, "segment": segment, "positions": np.cumsum(segment, 1) - 1}
    reloaded = huggingface.load(tmp_path)
    logits = np.asarray(our_logits(reloaded, batch))
    start = prompt["input_ids"].shape[1]
    if dtype == "float32":  # bfloat16 activations round ties differently
        assert logits.argmax(-1)[0, start - 1 : -1].tolist() == row[0, start:].tolist()
