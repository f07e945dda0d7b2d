"""One layer: its norm, its gate and its products, each beside its plain equation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from cotjax.models.architecture import Architecture
from cotjax.models.block import Block, Formats, RMSNorm, gated, narrow_product

SHAPE = Architecture("llama", 64, 12, 1, 2, 1, 4, 20)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 12)), jnp.float32)


@pytest.mark.parametrize("offset", [False, True])
def test_a_norm_divides_by_the_root_mean_square_and_multiplies_by_its_weight(offset):
    shape = dataclasses.replace(SHAPE, offset_norms=offset)
    norm = RMSNorm(12, shape, Formats())
    weight = jnp.linspace(-0.5, 1.5, 12)
    norm.scale[...] = weight
    plain = np.asarray(X) / np.sqrt((np.asarray(X) ** 2).mean(-1, keepdims=True) + shape.norm_eps)
    np.testing.assert_allclose(norm(X), plain * (np.asarray(weight) + offset), rtol=1e-5, atol=1e-6)


def test_a_norm_is_computed_in_float32_and_rounded_once():
    norm = RMSNorm(12, SHAPE, Formats(compute=jnp.bfloat16))
    large = (1e3 * X).astype(jnp.bfloat16)
    assert norm(large).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        norm(large).astype(jnp.float32), norm(X).astype(jnp.float32), atol=0.05
    )


@pytest.mark.parametrize(("name", "plain"), [("silu", nnx.silu), ("gelu_pytorch_tanh", nnx.gelu)])
def test_a_gate_and_its_gradients_are_the_plain_product_s(name, plain):
    gate, up = X, jnp.cos(X)
    ours, theirs = lambda g, u: gated(name, g, u), lambda g, u: plain(g) * u
    np.testing.assert_allclose(ours(gate, up), theirs(gate, up), rtol=1e-6)
    found, expected = (
        jax.grad(lambda g, u, f=f: (f(g, u) * jnp.sin(g)).sum(), argnums=(0, 1))(gate, up)
        for f in (ours, theirs)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


def own_values(query, key, value, cache):
    """Every token attends to itself alone."""
    return jnp.repeat(value, query.shape[2] // value.shape[2], axis=2), cache + 1


def test_a_layer_is_attention_and_a_gated_mlp_each_behind_a_norm():
    block = Block(SHAPE, Formats(), rngs=nnx.Rngs(0))
    out, cache = block(X, own_values, 0)
    assert cache == 1 and out.shape == X.shape
    h = block.attention_norm(X)
    value = (h @ block.value.kernel[...]).reshape(2, 3, 1, 4)
    x = X + jnp.repeat(value, 2, axis=2).reshape(2, 3, 8) @ block.out.kernel[...]
    h = block.mlp_norm(x)
    inner = nnx.silu(h @ block.gate.kernel[...]) * (h @ block.up.kernel[...])
    np.testing.assert_allclose(out, x + inner @ block.down.kernel[...], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"qk_norm": True}, ("query_norm", "key_norm")),
        ({"post_norms": True}, ("attention_post_norm", "mlp_post_norm")),
    ],
)
def test_norms_are_there_where_the_family_has_them(changes, names):
    plain = Block(SHAPE, Formats(), rngs=nnx.Rngs(0))
    with_norms = Block(dataclasses.replace(SHAPE, **changes), Formats(), rngs=nnx.Rngs(0))
    assert all(getattr(plain, name) is None for name in names)
    assert all(isinstance(getattr(with_norms, name), RMSNorm) for name in names)


def test_formats_are_numpy_s_whatever_they_were_given_as():
    assert Formats("bfloat16", jnp.float32, "float32") == Formats(jnp.bfloat16)
    assert Formats("bfloat16").param == jnp.dtype("bfloat16")


def _products(of):
    """The formats of both factors of every matrix product in a jaxpr."""
    found = []
    for line in of.eqns:
        if line.primitive.name == "dot_general":
            left, right = (str(one.aval.dtype) for one in line.invars)
            found.append((left, right))
        for inner in jaxprs_in_params(line.params):
            found += _products(inner)
    return found


@pytest.mark.parametrize("frozen", [False, True])
def test_narrow_factors_stay_narrow_in_the_backward_pass(frozen):
    """The gradient is JAX's own, but for the order of summation."""
    wide, by_last = jnp.float32, (((1,), (0,)), ((), ()))
    key, other, third = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(key, (6, 40), jnp.bfloat16)
    kernel = jax.random.normal(other, (40, 24), jnp.bfloat16)
    by_out = jax.random.normal(third, (6, 24), jnp.bfloat16)
    chosen = (0,) if frozen else (0, 1)

    def pull(product):
        def total(x, kernel):
            y = product(x, kernel, by_last, None, preferred_element_type=wide)
            return jnp.sum(y.astype(jnp.bfloat16) * by_out)

        return jax.grad(total, chosen)

    ours, theirs = pull(narrow_product), pull(jax.lax.dot_general)
    factors = _products(jax.make_jaxpr(ours)(x, kernel).jaxpr)
    assert len(factors) == (2 if frozen else 3)
    assert {*factors} == {("bfloat16", "bfloat16")}
    for mine, other in zip(ours(x, kernel), theirs(x, kernel), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine.astype(wide), other.astype(wide), rtol=2**-7, atol=2**-7)
