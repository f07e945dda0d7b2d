"""The table of families: each has its options, and every parameter a tensor's name."""

import jax
import pytest
from flax import nnx

from cotjax.models.formats.families import TENSOR_NAMES, tensor_names
from cotjax.models.transformer import Transformer
from tests.models.formats.test_huggingface import SHAPES, make_model


@pytest.mark.parametrize("family", SHAPES)
def test_every_parameter_of_a_family_has_one_name(family: str) -> None:
    shape = make_model(family).shape
    model = nnx.eval_shape(lambda: Transformer(shape, rngs=nnx.Rngs(0)))
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))]
    names = tensor_names(shape)
    assert set(paths) <= set(names) and len(set(names.values())) == len(names)
    layered = {path for path in paths if path.startswith("layers.")}
    assert all(("{}" in names[path]) == (path in layered) for path in paths)
    assert jax.tree.leaves(nnx.state(model))


def test_an_embedding_and_its_turn_are_hugging_face_s() -> None:
    assert TENSOR_NAMES["embed.embedding"] == "model.embed_tokens.weight"
    assert TENSOR_NAMES["unembed_weight"] == "lm_head.weight"
