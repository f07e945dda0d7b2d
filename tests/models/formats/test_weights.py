"""Named tensors and stacked parameters: each comes back, and what does not fit is named."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.errors import InputError
from cotjax.models.formats.weights import (
    Drawn,
    fill,
    named_tensors,
    tensor_shapes,
)
from tests.tiny import SHAPE, make_model

FORMATS = {"param_dtype": jnp.float32, "dtype": jnp.float32}


class Held:
    """Tensors in memory."""

    origin = "here"

    def __init__(self, tensors):
        self.tensors = dict(tensors)
        self.shapes = {name: one.shape for name, one in self.tensors.items()}
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return self.tensors[name]


def of(model):
    return Held(named_tensors(model, np.float32))


def leaves(model):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model))]


def test_a_model_s_tensors_fill_the_same_model_and_each_is_read_once():
    model, tensors = make_model(), of(make_model())
    filled = fill(SHAPE, tensors, **FORMATS)
    for one, other in zip(leaves(filled), leaves(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sorted(tensors.reads) == sorted(tensors.shapes) == sorted(tensor_shapes(SHAPE))
    assert tensors.shapes == tensor_shapes(SHAPE)


def test_weights_are_rounded_to_their_format():
    filled = fill(SHAPE, of(make_model()), param_dtype=jnp.bfloat16, dtype=jnp.float32)
    for one, other in zip(leaves(filled), leaves(make_model()), strict=True):
        np.testing.assert_array_equal(one, other.astype(one.dtype))
        assert one.dtype == jnp.bfloat16


def test_parameters_go_where_they_are_placed():
    device = jax.devices()[3]
    place = lambda shapes: jax.tree.map(  # noqa: E731
        lambda _: jax.sharding.SingleDeviceSharding(device), shapes
    )
    filled = fill(SHAPE, of(make_model()), place=place, **FORMATS)
    assert {d for leaf in jax.tree.leaves(nnx.state(filled)) for d in leaf.devices()} == {device}


def damaged(**changes):
    tensors = of(make_model())
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors.tensors[name]
        else:
            tensors.tensors[name] = value
    return Held(tensors.tensors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__norm__weight": None}, "tensor model.norm.weight .* is missing"),
        (
            {"model__norm__weight": np.zeros(3, np.float32)},
            r"tensor model.norm.weight has shape \(3,\), but",
        ),
        ({"extra": np.zeros(3, np.float32)}, r"tensor extra \(3,\) has no place"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(InputError, match=f"^here: {words}"):
        fill(SHAPE, damaged(**changes), **FORMATS)


def test_frequencies_that_are_computed_anyway_are_passed_over():
    extra = {"model__layers__0__self_attn__rotary_emb__inv_freq": np.zeros(2, np.float32)}
    assert fill(SHAPE, damaged(**extra), **FORMATS)


def test_a_repeated_head_of_a_tied_model_must_be_the_embedding():
    tied = dataclasses.replace(SHAPE, tie_embeddings=True)
    tensors = of(make_model(tied)).tensors
    embedding = tensors["model.embed_tokens.weight"]
    assert fill(tied, Held(tensors | {"lm_head.weight": embedding}), **FORMATS)
    with pytest.raises(InputError, match="differs from the embedding"):
        fill(tied, Held(tensors | {"lm_head.weight": embedding + 1}), **FORMATS)


def test_random_weights_are_of_the_seed_and_the_name_and_norms_begin_at_one():
    one, same, other = (fill(SHAPE, Drawn(SHAPE, seed), **FORMATS) for seed in (0, 0, 1))
    for a, b in zip(leaves(one), leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(leaves(one), leaves(other), strict=True))
    drawn = Drawn(SHAPE, 0)
    assert (drawn.read("model.norm.weight") == 1).all()
    offset = Drawn(dataclasses.replace(SHAPE, offset_norms=True), 0)
    assert not offset.read("model.norm.weight").any()
