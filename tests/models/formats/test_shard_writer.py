"""Loading onto devices: each holds its part, bit for bit, and each tensor is read once."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.models.formats import huggingface
from cotjax.models.formats import shard_writer as placing
from cotjax.models.formats.load import load_model, load_tokenizer, resolve
from cotjax.models.policy import Policy
from tests.models.formats.test_huggingface import SHAPES, assert_same_model, make_model

MESH = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "fsdp"))


def place(axis, params):
    """Every parameter split along one of its axes where it divides, twice over."""

    def one(leaf):
        spec = [None] * leaf.ndim
        if leaf.shape[axis] % 4 == 0:
            spec[axis] = "fsdp"
        return NamedSharding(MESH, P(*spec))

    return jax.tree.map(one, params)


@pytest.fixture
def small_pieces(monkeypatch):
    """As if every tensor were too large to pass through the host in one piece."""
    monkeypatch.setattr(placing, "PIECE_BYTES", 1000)
    monkeypatch.setattr(placing, "SMALL_BYTES", 0)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_split_in_small_pieces_is_the_same_model(axis, dtype, tmp_path, small_pieces):
    huggingface.save(make_model("qwen2"), tmp_path, max_shard_bytes=60_000)
    where = functools.partial(place, axis)
    loaded = huggingface.load(tmp_path, param_dtype=dtype, place=where)
    assert_same_model(loaded, huggingface.load(tmp_path, param_dtype=dtype))
    _, params = Policy.split(loaded)
    wanted = where(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params))
    jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding or 1 / 0, params, wanted)
    rounded = jax.tree.map(lambda x: x.astype(dtype), nnx.state(make_model("qwen2")))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), rounded)


@pytest.mark.parametrize("where", [None, functools.partial(place, -1)])
def test_each_tensor_is_read_once_in_the_order_of_the_files(where, tmp_path, monkeypatch):
    huggingface.save(make_model("llama"), tmp_path, max_shard_bytes=60_000)
    reads = []
    read = huggingface.SafetensorsFolder.read
    monkeypatch.setattr(
        huggingface.SafetensorsFolder,
        "read",
        lambda self, name: reads.append(name) or read(self, name),
    )
    huggingface.load(tmp_path, place=where)
    assert reads == list(huggingface.SafetensorsFolder(tmp_path).shapes)
    assert set(collections.Counter(reads).values()) == {1}


@pytest.mark.parametrize("family", SHAPES)
def test_a_sharded_model_is_saved_like_a_whole_one(family, tmp_path):
    huggingface.save(make_model(family), tmp_path / "one")
    huggingface.save(huggingface.load(tmp_path / "one", place=functools.partial(place, -1)),
                     tmp_path / "two")  # fmt: skip
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_random_weights_are_the_same_wherever_they_lie(tmp_path):
    huggingface.save(make_model("llama"), tmp_path, tokenizer=load_tokenizer(resolve("tiny")))
    (tmp_path / "model.safetensors").unlink()
    formats = {"param_dtype": jnp.bfloat16, "compute_dtype": jnp.float32}
    models = [
        load_model(str(tmp_path), init="random", seed=3, place=where, **formats).model
        for where in (None, functools.partial(place, -1))
    ]
    assert_same_model(*models)
    assert models[1].embed.embedding.sharding.spec == P(None, "fsdp")
