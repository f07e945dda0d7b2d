"""Weights of a decoding loop: turned products, and int8 against the matrices that it stands for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.interfaces import End, PromptBatch
from cotjax.models.decode_weights import quantized, turned_product
from cotjax.models.lora import BRIDGE, PROJECTIONS, attach, join_adapter
from cotjax.models.policy import Policy
from cotjax.models.transformer import Transformer
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from tests.tiny import SHAPE, make_policy

RNG = np.random.default_rng(0)
KERNEL = jnp.asarray(RNG.normal(size=(12, 7)) * RNG.uniform(0.1, 9, 7), jnp.float32)
SETTINGS = Sampling(2, 6, eos_id=0, pad_id=1, temperature=0.7)


def test_a_turned_product_is_the_product_with_the_kernel_turned():
    x = jnp.asarray(RNG.normal(size=(3, 12)), jnp.float32)
    found = turned_product(x, KERNEL.T, None, None)
    np.testing.assert_allclose(found, np.asarray(x) @ np.asarray(KERNEL), rtol=1e-5, atol=1e-5)


def test_rounding_is_within_half_a_step_of_its_column():
    values, scale = quantized(KERNEL)
    assert values.dtype == jnp.int8 and scale.shape == (7,)
    lost = np.abs(np.asarray(KERNEL) - np.asarray(values, np.float64) * np.asarray(scale))
    assert (lost <= 0.5001 * np.asarray(scale)).all() and lost.max() > 0
    assert (np.abs(values).max(axis=0) == 127).all()


def test_zeros_stay_zeros_and_a_nan_is_seen():
    values, scale = quantized(jnp.zeros((3, 2)).at[1, 1].set(jnp.nan))
    assert values[:, 0].tolist() == [0, 0, 0] and scale[0] == 0
    assert jnp.isnan(scale[1])


def rounded(params):
    """The parameters whose projections are what int8 stands for."""
    layers = dict(params["layers"])
    for name in PROJECTIONS:
        values, scale = quantized(layers[name]["kernel"])
        kernel = values.astype(jnp.float32) * scale[:, None, :]
        layers[name] = layers[name] | {"kernel": kernel}
    return params | {"layers": layers}


def decoded(policy, params, layers):
    """Hidden states of three tokens behind two prompts, with some layers, all else as it is."""
    prompt = jnp.asarray(np.random.default_rng(1).integers(3, SHAPE.vocab_size, (2, 4)), jnp.int32)
    mask = jnp.ones_like(prompt, bool).at[0, 0].set(False)
    caches = policy.prefill(params, prompt, mask)
    own = policy.own_caches(caches, rows=2, group=2, max_new_tokens=3)
    outs = []
    for number in range(3):
        tokens = jnp.full((2, 2), 5 + number)
        filled, clock = jnp.full(2, number), jnp.int32(number)
        hidden, own = policy.decode(params, layers, tokens, mask, filled, clock, (caches, own))
        outs.append(hidden)
    return jnp.stack(outs)


@pytest.mark.parametrize("kind", ["turned", "as they lie", "bfloat16", "adapter"])
def test_decoding_is_that_of_the_matrices_that_int8_stands_for(kind):
    policy, params = make_policy(SHAPE)
    if kind == "bfloat16":
        policy, _ = Policy.split(Transformer(SHAPE, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    if kind != "as they lie":  # as a run has it: a CPU decodes with turned kernels
        policy = dataclasses.replace(policy, placement=placement(make_mesh(1)))
    alike = rounded(params)
    if kind == "adapter":
        policy, adapter = attach(policy, params, BRIDGE, jax.random.key(1))
        filled = jax.tree.map(lambda leaf: leaf + 0.05, adapter)
        params, alike = join_adapter(filled, params), join_adapter(filled, alike)
    layers = policy.unstacked(params, "int8")
    assert layers[0].turned == (kind != "as they lie")
    kernel = layers[0].params["gate"]["kernel"][...]
    assert kernel.dtype == jnp.int8
    assert kernel.shape == ((32, 16) if layers[0].turned else (16, 32))
    by_hand = policy.unstacked(alike) or policy.bind(alike).layer_weights(None)
    expected = decoded(policy, params, by_hand)
    found = decoded(policy, params, layers)
    np.testing.assert_allclose(found, expected, atol=0.1 if kind == "bfloat16" else 1e-5)
    assert np.abs(found - decoded(policy, params, policy.unstacked(params))).max() > 1e-4


@pytest.mark.parametrize("draft", [0, 2])
def test_a_rollout_draws_with_them_and_a_nan_in_a_matrix_is_seen(draft):
    policy, params = make_policy(SHAPE)
    tokens = jnp.full((1, 3), 5)
    batch = PromptBatch(tokens, jnp.ones_like(tokens, bool), jnp.arange(1))
    plain = dataclasses.replace(SETTINGS, draft_tokens=draft)
    small = dataclasses.replace(plain, weights_dtype="int8")
    whole, found = (
        generate(policy, params, batch, jax.random.key(1), settings=one) for one in (plain, small)
    )
    assert not np.array_equal(whole.logp, found.logp)
    np.testing.assert_allclose(found.logp[..., 0], whole.logp[..., 0], atol=0.1)
    kernel = params["layers"]["gate"]["kernel"].at[0, 1, 1].set(jnp.nan)
    layers = params["layers"] | {"gate": params["layers"]["gate"] | {"kernel": kernel}}
    broken = generate(policy, params | {"layers": layers}, batch, jax.random.key(1), settings=small)
    assert (broken.end == End.NONFINITE).all()
