"""Laws of log-probabilities, entropy, KL estimators, and of the version that builds no logits."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cotjax import core
from tests import oracles
from tests.oracles import COMPOSED, assert_close

V, D = 300, 8
SHAPES = [(4,), (2, 3)]
TEMPERATURES = [1.0, 0.7, 2.5]

token_logprobs = jax.jit(core.token_logprobs, static_argnames="temperature")
entropy = jax.jit(core.entropy, static_argnames="temperature")


def draw(shape, seed=0, vocabulary=V):
    """Logits, tokens, mask; at least one position counts and one does not."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(2 * rng.normal(size=(*shape, vocabulary)), jnp.float32)
    tokens = jnp.asarray(rng.integers(0, vocabulary, shape), jnp.int32)
    mask = rng.random(shape) < 0.6
    mask.reshape(-1)[:2] = [True, False][: mask.size]
    return logits, tokens, jnp.asarray(mask)


def head(shape, seed=0, dtype=jnp.float32):
    """Hidden states, unembedding, tokens, mask, and a cotangent for each of the two outputs."""
    _, tokens, mask = draw(shape, seed, vocabulary=V)
    rng = np.random.default_rng(seed)
    hidden = jnp.asarray(rng.normal(size=(*shape, D)), dtype)
    unembed = jnp.asarray(rng.normal(size=(V, D)), dtype)
    cotangents = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2)]
    return hidden, unembed, tokens, mask, cotangents


def dense(hidden, unembed, tokens, *, temperature=1.0, mask=None):
    logits = jnp.einsum("...d,vd->...v", hidden, unembed, preferred_element_type=jnp.float32)
    settings = {"temperature": temperature, "mask": mask}
    return core.token_logprobs(logits, tokens, **settings), core.entropy(logits, **settings)


# Dense


@settings(max_examples=15)
@given(
    shape=st.sampled_from(SHAPES),
    temperature=st.sampled_from(TEMPERATURES),
    seed=st.integers(0, 2**16),
)
def test_values_equal_the_loops(shape, temperature, seed):
    logits, tokens, mask = draw(shape, seed, vocabulary=7)
    logp = token_logprobs(logits, tokens, temperature=temperature, mask=mask)
    spread = entropy(logits, temperature=temperature, mask=mask)
    for i in np.ndindex(shape):
        row = np.asarray(logits[i], np.float64)
        counts = bool(mask[i])
        expected = oracles.log_probs(row, temperature)[int(tokens[i])] if counts else 0
        assert_close(logp[i], expected)
        assert_close(spread[i], oracles.entropy(row, temperature) if counts else 0)


@pytest.mark.parametrize("function", ["logp", "entropy"])
def test_gradients_equal_finite_differences(function):
    logits, tokens, _ = draw((3,), vocabulary=5)
    of_row = {
        "logp": lambda row, i: oracles.log_probs(row, 0.7)[int(tokens[i])],
        "entropy": lambda row, i: oracles.entropy(row, 0.7),
    }[function]
    ours = {
        "logp": lambda z: core.token_logprobs(z, tokens, temperature=0.7),
        "entropy": lambda z: core.entropy(z, temperature=0.7),
    }[function]
    expected = oracles.difference(
        lambda z: sum(of_row(row, i) for i, row in enumerate(z)), oracles.rows(logits)
    )
    assert_close(jax.grad(lambda z: ours(z).sum())(logits), expected, COMPOSED)


def test_probabilities_of_all_tokens_sum_to_one():
    logits, _, _ = draw((1,), vocabulary=6)
    logp = token_logprobs(jnp.repeat(logits, 6, axis=0), jnp.arange(6))
    assert_close(jnp.exp(logp).sum(), 1)
    assert (logp <= 0).all()


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("token", [-100, 10**6])
def test_masked_positions_change_neither_value_nor_gradient(poison, token):
    logits, tokens, mask = draw((2, 3), vocabulary=5)

    @jax.jit
    def both(logits, tokens):
        def total(z):
            logp = core.token_logprobs(z, tokens, mask=mask)
            spread = core.entropy(z, mask=mask)
            return (logp + 2 * spread).sum(), (logp, spread)

        return jax.grad(total, has_aux=True)(logits)

    clean = both(logits, tokens)
    poisoned = both(jnp.where(mask[..., None], logits, poison), jnp.where(mask, tokens, token))
    for expected, actual in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert not np.asarray(actual)[~np.asarray(mask)].any()


def test_a_forbidden_token_has_no_probability_and_costs_no_nan():
    logits = jnp.array([[1.0, -jnp.inf, 2.0]])
    assert token_logprobs(logits, jnp.array([1])) == -jnp.inf
    without = jnp.array([[1.0, 2.0]])
    assert_close(token_logprobs(logits, jnp.array([2])), token_logprobs(without, jnp.array([1])))
    assert_close(entropy(logits), entropy(without))
    gradient = jax.grad(lambda z: (core.token_logprobs(z, jnp.array([2])) + core.entropy(z)).sum())(
        logits
    )
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0


@pytest.mark.parametrize("token", [-1, 5, 6, -100])
def test_an_id_outside_the_vocabulary_is_nan(token):
    logits, _, _ = draw((1,), vocabulary=5)
    assert jnp.isnan(token_logprobs(logits, jnp.array([token])))
    hidden, unembed, *_ = head((1,))
    token = token if token < 0 else token - 5 + V
    assert jnp.isnan(
        core.chunked_token_logprobs(hidden, unembed, jnp.array([token]), chunk_size=1)[0]
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits_are_read_as_float32(dtype):
    logits, tokens, _ = draw((4,))
    half = logits.astype(dtype)
    for function in (lambda z: token_logprobs(z, tokens), entropy):
        assert function(half).dtype == jnp.float32
        np.testing.assert_array_equal(function(half), function(half.astype(jnp.float32)))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    logits, tokens, _ = draw((4,))
    hidden, unembed, tokens, *_ = head((4,))
    calls = [
        lambda: core.token_logprobs(logits, tokens, temperature=temperature),
        lambda: core.entropy(logits, temperature=temperature),
        lambda: core.chunked_token_logprobs(
            hidden, unembed, tokens, chunk_size=1, temperature=temperature
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"temperature is {temperature}"):
            call()


# KL estimators


@pytest.mark.parametrize("name", ["kl_k1", "kl_k2", "kl_k3"])
@settings(max_examples=10)
@given(logp=st.floats(-20, 0), logp_ref=st.floats(-20, 0))
def test_estimators_equal_their_equations(name, logp, logp_ref):
    arrays = jnp.array([[logp]]), jnp.array([[logp_ref]])
    expected = getattr(oracles, name)(*(float(x[0, 0]) for x in arrays))
    assert_close(getattr(core, name)(*arrays)[0, 0], expected)
    if name != "kl_k1":
        assert getattr(core, name)(*arrays) >= -1e-6


@pytest.mark.parametrize("name", ["kl_k1", "kl_k2", "kl_k3"])
def test_estimators_widen_half_precision(name):
    arrays = jnp.array([[-1.0]], jnp.bfloat16), jnp.array([[-1.5078125]], jnp.bfloat16)
    expected = getattr(oracles, name)(-1.0, -1.5078125)
    assert_close(getattr(core, name)(*arrays)[0, 0], expected)


@functools.partial(jax.jit, static_argnums=0)
def expectation(name, z, z_ref):
    """E over π = softmax(z) of an estimator, with the tokens held while differentiating."""
    logp, logp_ref = jax.nn.log_softmax(z), jax.nn.log_softmax(z_ref)
    weight = jax.lax.stop_gradient(jnp.exp(logp))
    return (weight * getattr(core, name)(logp, logp_ref)).sum()


def exact_kl(z, z_ref):
    logp, logp_ref = jax.nn.log_softmax(z), jax.nn.log_softmax(z_ref)
    return (jnp.exp(logp) * (logp - logp_ref)).sum()


@pytest.mark.parametrize("distance", [0.5, 0.05])
def test_estimators_agree_in_expectation_to_second_order(distance):
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=5), jnp.float32)
    z_ref = z + distance * jnp.asarray(rng.normal(size=5), jnp.float32)
    exact = exact_kl(z, z_ref)
    assert 0.1 * distance**2 < exact < distance**2
    assert abs(expectation("kl_k1", z, z_ref) - exact) < 1e-6
    assert abs(expectation("kl_k3", z, z_ref) - exact) < 1e-6
    assert abs(expectation("kl_k2", z, z_ref) - exact) < distance**3 + 1e-6


def test_expected_gradients_are_as_documented():
    z, z_ref = jnp.array([0.3, -1.0, 0.8]), jnp.array([0.1, 0.2, -0.5])
    slope = lambda name: jax.grad(expectation, argnums=1)(name, z, z_ref)  # noqa: E731
    assert_close(slope("kl_k1"), np.zeros(3))
    assert_close(slope("kl_k2"), jax.grad(exact_kl)(z, z_ref))


# Chunked


@functools.cache
def sides(chunk_size, temperature, masked):
    """The dense and the chunked way to (outputs, gradients), as one jitted function each."""

    def run(function, hidden, unembed, tokens, mask, cotangents):
        def total(hidden, unembed):
            outputs = function(
                hidden, unembed, tokens, temperature=temperature, mask=mask if masked else None
            )
            return sum((a * b).sum() for a, b in zip(outputs, cotangents, strict=True)), outputs

        return jax.grad(total, argnums=(0, 1), has_aux=True)(hidden, unembed)

    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=chunk_size)
    return [jax.jit(functools.partial(run, f)) for f in (dense, chunked)]


@pytest.mark.parametrize(
    ("shape", "chunk_size", "temperature", "masked"),
    [
        ((6,), 1, 1.0, False),  # three blocks of 128, the last one overlapping
        ((2, 3), 1, 0.7, True),
        ((2, 2, 3), 6, 0.7, True),  # two blocks
        ((2, 3), 6, 2.5, False),  # one block: all logits at once
        ((2, 3), 1000, 1.0, True),
        ((1,), 1, 1.0, False),
    ],
)
def test_chunked_equals_dense_in_value_and_gradient(shape, chunk_size, temperature, masked):
    inputs = head(shape)
    reference, chunked = (run(*inputs) for run in sides(chunk_size, temperature, masked))
    for expected, actual in zip(jax.tree.leaves(reference), jax.tree.leaves(chunked), strict=True):
        assert actual.dtype == expected.dtype
        assert_close(actual, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_traced_temperature_is_as_exact_as_a_known_one(dtype, cap):
    hidden, unembed, tokens, mask, cotangents = head((2, 3), dtype=dtype)

    def total(hidden, unembed, temperature):
        outputs = core.chunked_token_logprobs(
            hidden, unembed, tokens, chunk_size=1, temperature=temperature, softcap=cap, mask=mask
        )
        return sum((a * b).sum() for a, b in zip(outputs, cotangents, strict=True)), outputs

    run = jax.grad(total, argnums=(0, 1), has_aux=True)
    known = jax.jit(functools.partial(run, temperature=0.7))(hidden, unembed)
    traced = jax.jit(run)(hidden, unembed, jnp.float32(0.7))
    for expected, actual in zip(jax.tree.leaves(known), jax.tree.leaves(traced), strict=True):
        assert actual.dtype == expected.dtype
        assert_close(actual.astype(jnp.float32), expected.astype(jnp.float32))


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_a_common_offset_of_the_logits_costs_no_digits(offset):
    hidden, unembed, tokens, *_ = head((2, 3))
    hidden = jnp.concatenate([hidden, jnp.full((2, 3, 1), 1.0)], axis=-1)
    raised = jnp.concatenate([unembed, jnp.full((V, 1), offset)], axis=-1)
    level = jnp.concatenate([unembed, jnp.zeros((V, 1))], axis=-1)
    for actual, expected in zip(
        core.chunked_token_logprobs(hidden, raised, tokens, chunk_size=1),
        dense(hidden, level, tokens),
        strict=True,
    ):
        assert_close(actual, expected, 1e-3 if offset else oracles.SIMPLE)  # rounding of z itself


@pytest.mark.parametrize("which", [0, 1])
def test_each_output_has_its_own_gradient(which):
    hidden, unembed, tokens, _, cotangents = head((2, 3))

    def slope(function):
        total = lambda h, w: (cotangents[which] * function(h, w, tokens)[which]).sum()  # noqa: E731
        return jax.jit(jax.grad(total, argnums=(0, 1)))(hidden, unembed)

    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=2)
    for expected, actual in zip(slope(dense), slope(chunked), strict=True):
        assert_close(actual, expected)


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_masked_hidden_states_change_neither_value_nor_gradient(poison):
    hidden, unembed, tokens, mask, cotangents = head((2, 3))
    run = sides(1, 1.0, True)[1]
    clean = run(hidden, unembed, tokens, mask, cotangents)
    poisoned = run(
        jnp.where(mask[..., None], hidden, poison),
        unembed,
        jnp.where(mask, tokens, -100),
        mask,
        cotangents,
    )
    for expected, actual in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        np.testing.assert_array_equal(actual, expected)
    (d_hidden, _), outputs = poisoned
    for array in (d_hidden, *outputs):
        assert not np.asarray(array)[~np.asarray(mask)].any()


def test_bfloat16_products_are_summed_in_float32():
    # 4,096 tokens add 1/4 each to a row of the gradient: a bfloat16 sum would stop at 64.
    n = 4096
    hidden, unembed = jnp.ones((n, 1), jnp.bfloat16), jnp.zeros((2, 1), jnp.bfloat16)
    tokens = jnp.zeros(n, jnp.int32)

    def total(unembed):
        logp, _ = core.chunked_token_logprobs(hidden, unembed, tokens, chunk_size=n)
        return logp.sum() / 2

    value, gradient = jax.value_and_grad(total)(unembed)
    assert gradient.dtype == jnp.bfloat16
    assert_close(value, n * math.log(0.5) / 2)
    np.testing.assert_array_equal(np.asarray(gradient, np.float32), [[n / 4], [-n / 4]])


def test_bfloat16_equals_float32_to_its_own_rounding():
    inputs = head((2, 3), dtype=jnp.bfloat16)
    wide = [x.astype(jnp.float32) for x in inputs[:2]]
    run = sides(1, 1.0, False)[1]
    (half_gradients, half_outputs) = run(*inputs)
    (gradients, outputs) = run(*wide, *inputs[2:])
    for expected, actual in zip(outputs, half_outputs, strict=True):
        assert actual.dtype == jnp.float32
        assert_close(actual, expected)
    for expected, actual in zip(gradients, half_gradients, strict=True):
        assert actual.dtype == jnp.bfloat16
        assert_close(actual.astype(jnp.float32), expected, 2**-7)


def test_a_float32_head_serves_bfloat16_states_and_keeps_its_dtype():
    hidden, unembed, tokens, mask, cotangents = head((2, 3))
    run = sides(1, 1.0, False)[1]
    (d_hidden, d_unembed), outputs = run(
        hidden.astype(jnp.bfloat16), unembed, tokens, mask, cotangents
    )
    assert (d_hidden.dtype, d_unembed.dtype) == (jnp.bfloat16, jnp.float32)
    rounded = [x.astype(jnp.bfloat16) for x in (hidden, unembed)]
    for actual, expected in zip(outputs, dense(*rounded, tokens), strict=True):
        assert_close(actual, expected)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        hidden, unembed, tokens, _, _ = head((2, 3), dtype=jnp.float64)
        logp, _ = core.chunked_token_logprobs(hidden, unembed, tokens, chunk_size=1)
        expected = core.token_logprobs(jnp.einsum("...d,vd->...v", hidden, unembed), tokens)
        assert logp.dtype == jnp.float64
        np.testing.assert_allclose(logp, expected, rtol=1e-12)


def test_vmap_equals_a_batch():
    hidden, unembed, tokens, *_ = head((2, 3))
    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=1)
    mapped = jax.jit(jax.vmap(chunked, in_axes=(0, None, 0)))(hidden, unembed, tokens)
    for actual, expected in zip(mapped, chunked(hidden, unembed, tokens), strict=True):
        assert_close(actual, expected)


def test_eight_devices_equal_one():
    inputs = head((8, 3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    hidden, unembed, tokens, mask, cotangents = inputs
    sharded = (
        jax.device_put(hidden, rows),
        jax.device_put(unembed, NamedSharding(mesh, PartitionSpec())),
        *jax.device_put((tokens, mask, cotangents), rows),
    )
    run = sides(1, 1.0, True)[1]
    for expected, actual in zip(
        jax.tree.leaves(run(*inputs)), jax.tree.leaves(run(*sharded)), strict=True
    ):
        assert_close(actual, expected)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def count(primitive, function, *arguments):
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return sum(equation.primitive.name == primitive for equation in equations(jaxpr))


def total(function, outputs):
    def value(*inputs):
        results = function(*inputs)
        return sum(results[i].sum() for i in outputs)

    return value


def test_no_array_of_all_logits_forward_or_backward():
    hidden, unembed, tokens, *_ = head((4, 8))
    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=1)
    slope = jax.grad(total(chunked, (0, 1)), argnums=(0, 1))
    jaxpr = jax.make_jaxpr(slope)(hidden, unembed, tokens).jaxpr
    sizes = [v.aval.size for e in equations(jaxpr) for v in e.outvars]
    assert 32 * 128 in sizes  # a block
    assert max(sizes) < 32 * V


def test_the_backward_pass_does_only_what_is_asked():
    hidden, unembed, tokens, *_ = head((2, 3))
    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=1)

    def products(argnums, outputs):
        slope = jax.grad(total(chunked, outputs), argnums=argnums)
        return count("dot_general", slope, hidden, unembed, tokens)

    assert products((0, 1), (0, 1)) == 4  # forward, again, and one for each gradient
    assert products(0, (0, 1)) == 3  # a frozen head

    def exponentials(outputs):
        return count("exp", jax.grad(total(chunked, outputs)), hidden, unembed, tokens)

    assert exponentials((0,)) < exponentials((0, 1))


@pytest.mark.parametrize("chunk_size", [0, -3])
def test_an_empty_chunk_is_refused(chunk_size):
    hidden, unembed, tokens, *_ = head((4,))
    with pytest.raises(ValueError, match=f"chunk_size is {chunk_size}; needs at least 1"):
        core.chunked_token_logprobs(hidden, unembed, tokens, chunk_size=chunk_size)


@pytest.mark.parametrize(("chunk_size", "width"), [(1, 128), (8, 128), (16, 256), (31, 384)])
def test_blocks_hold_as_many_logits_as_the_chunk(chunk_size, width):
    # 32 tokens, 512 entries: chunk_size · 512 / 32 columns, whole lanes of 128 and at least one.
    hidden, unembed = jnp.ones((32, 2)), jnp.ones((512, 2))
    chunked = functools.partial(core.chunked_token_logprobs, chunk_size=chunk_size)
    jaxpr = jax.make_jaxpr(chunked)(hidden, unembed, jnp.zeros(32, jnp.int32)).jaxpr
    assert max(v.aval.size for e in equations(jaxpr) for v in e.outvars) == 32 * width
