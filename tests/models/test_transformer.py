"""The decoder: its layers in order, its options, and that a scan changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.errors import InputError
from cotjax.models.transformer import REMAT, Transformer
from tests.tiny import SHAPE, make_model, make_policy


def rows(seed=0, size=6):
    from cotjax.interfaces import TokenBatch

    tokens = np.random.default_rng(seed).integers(2, 400, (2, size)).astype(np.int32)
    ones = np.ones(tokens.shape, np.int32)
    positions = np.broadcast_to(np.arange(size, dtype=np.int32), tokens.shape)
    return TokenBatch(tokens, tokens, ones.astype(np.float32), ones, positions)  # pyright: ignore


def logits(policy, params, batch):
    return policy.head(params)(policy.rows(params, batch))


def test_new_weights_follow_their_seed_and_have_the_families_spread():
    def fresh(seed):
        return nnx.state(Transformer(SHAPE, rngs=nnx.Rngs(seed)))

    one, same, other = (jax.tree.leaves(fresh(seed)) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    kernels = [np.asarray(leaf) for leaf in one if leaf.ndim == 3]
    assert all(0.015 < kernel.std() < 0.025 for kernel in kernels)


def test_layers_are_stacked_on_a_leading_axis():
    _, params = make_policy()
    assert {leaf.shape[0] for leaf in jax.tree.leaves(params["layers"])} == {SHAPE.num_layers}


def test_tied_embeddings_are_one_parameter():
    tied = make_policy(dataclasses.replace(SHAPE, tie_embeddings=True))
    assert "unembed_weight" not in tied[1] and "unembed_weight" in make_policy()[1]
    policy, params = tied
    np.testing.assert_array_equal(policy.unembed(params), params["embed"]["embedding"])


def test_scaled_embeddings_are_multiplied_by_the_root_of_their_width():
    policy, params = make_policy()
    scaled, _ = make_policy(dataclasses.replace(SHAPE, scale_embeddings=True))
    larger = params | {"embed": jax.tree.map(lambda x: x * SHAPE.hidden_size**0.5, params["embed"])}
    np.testing.assert_allclose(
        scaled.rows(params, rows()), policy.rows(larger, rows()), rtol=1e-4, atol=1e-5
    )


def test_a_layer_more_changes_what_comes_out():
    policy, params = make_policy()
    swapped = params | {"layers": jax.tree.map(lambda x: x[::-1], params["layers"])}
    difference = np.abs(logits(policy, params, rows()) - logits(policy, swapped, rows()))
    assert difference.max() > 1e-3, "the order of layers counts"


@pytest.mark.parametrize("remat", REMAT)
def test_what_the_backward_pass_computes_again_changes_no_gradient(remat):
    def gradient(remat):
        model = Transformer(SHAPE, rngs=nnx.Rngs(0), remat=remat)
        from cotjax.models.policy import Policy

        policy, params = Policy.split(model)
        return jax.grad(lambda p: logits(policy, p, rows()).sum())(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(remat), gradient("none"),
    )  # fmt: skip


def test_an_unknown_remat_is_refused():
    with pytest.raises(InputError, match="remat"):
        Transformer(SHAPE, rngs=nnx.Rngs(0), remat="some")


def test_formats_are_those_asked_for():
    model = Transformer(SHAPE, rngs=nnx.Rngs(0), param_dtype="bfloat16", dtype="bfloat16")
    kinds = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))}
    assert kinds == {jnp.dtype("bfloat16")}
    assert make_model().shape == SHAPE
