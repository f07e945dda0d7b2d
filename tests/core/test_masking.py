"""Laws of the reductions: what does not count changes nothing, and splits do not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cotjax import core
from cotjax.core.masking import widen
from tests import oracles
from tests.oracles import assert_close

MAX_LENGTH = 9
SHAPES = [(5,), (3, 4), (2, 3, 4), (3, 1)]
MEANS = {
    "sequence": (core.sequence_mean, oracles.sequence_mean),
    "token": (core.token_mean, oracles.token_mean),
    "length": (
        functools.partial(core.length_mean, max_length=MAX_LENGTH),
        functools.partial(oracles.length_mean, max_length=MAX_LENGTH),
    ),
}
PAIRS = {
    "sequence": core.sequence_sum_count,
    "token": core.token_sum_count,
    "length": functools.partial(core.length_sum_count, max_length=MAX_LENGTH),
}
SLOPES = {name: jax.value_and_grad(mean) for name, (mean, _) in MEANS.items()}

each_mean = pytest.mark.parametrize("name", MEANS)


def draw(shape, seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32), jnp.asarray(rng.random(shape) < 0.6)


@each_mean
@settings(max_examples=20)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 2**16))
def test_means_equal_the_loops_in_value_and_gradient(name, shape, seed):
    values, mask = draw(shape, seed)
    value, gradient = SLOPES[name](values, mask)
    oracle = functools.partial(MEANS[name][1], mask=oracles.rows(mask))
    assert_close(value, oracle(oracles.rows(values)))
    expected = oracles.difference(oracle, oracles.rows(values))
    assert_close(oracles.rows(gradient), expected, oracles.COMPOSED)


@each_mean
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_masked_values_change_neither_value_nor_gradient(name, poison):
    values, mask = draw((3, 4), 0)
    clean = SLOPES[name](values, mask)
    poisoned = SLOPES[name](jnp.where(mask, values, poison), mask)
    np.testing.assert_array_equal(clean[0], poisoned[0])
    np.testing.assert_array_equal(clean[1], poisoned[1])
    assert not np.asarray(poisoned[1])[~np.asarray(mask)].any()


@each_mean
def test_an_empty_mask_gives_zero_and_no_gradient(name):
    value, gradient = SLOPES[name](jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool))
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@each_mean
def test_rows_that_only_pad_the_batch_change_nothing(name):
    values, mask = draw((4, 3), 1)
    padded = jnp.pad(values, ((0, 3), (0, 0))), jnp.pad(mask, ((0, 3), (0, 0)))
    for pair, whole in zip(PAIRS[name](*padded), PAIRS[name](values, mask), strict=True):
        assert_close(pair, whole)


@each_mean
@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), cut=st.sampled_from([1, 2]))
def test_uneven_micro_batches_add_up_to_the_whole(name, seed, cut):
    values, mask = draw((3, 4), seed)  # rows differ in length: a mean of means would be wrong
    parts = [PAIRS[name](values[:cut], mask[:cut]), PAIRS[name](values[cut:], mask[cut:])]
    total, count = (sum(part) for part in zip(*parts, strict=True))
    assert_close(core.mean_from(total, count), MEANS[name][0](values, mask))


@each_mean
def test_eight_devices_equal_one_and_compiled_equals_eager(name):
    values, mask = draw((16, 5), 2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(SLOPES[name])(*jax.device_put((values, mask), spread))
    for one, eight in zip(SLOPES[name](values, mask), sharded, strict=True):
        assert_close(eight, one)


@each_mean
def test_vmap_equals_one_by_one(name):
    values, mask = draw((2, 3, 4), 3)
    mean = MEANS[name][0]
    one_by_one = [mean(v, m) for v, m in zip(values, mask, strict=True)]
    assert_close(jax.vmap(mean)(values, mask), np.array(one_by_one))


@each_mean
def test_half_precision_is_summed_in_float32(name):
    values, mask = jnp.ones((1, 4096), jnp.bfloat16), jnp.ones((1, 4096), bool)
    total, count = PAIRS[name](values, mask)
    assert total.dtype == count.dtype == jnp.float32
    assert total == {"sequence": 1, "token": 4096, "length": 4096}[name]
    assert count == {"sequence": 1, "token": 4096, "length": MAX_LENGTH}[name]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_widen_makes_half_precision_float32(dtype):
    assert widen(jnp.ones(2, dtype)).dtype == jnp.float32


def test_widen_leaves_float64():
    with jax.enable_x64(True):
        assert widen(jnp.ones(2, jnp.float64)).dtype == jnp.float64


def test_masked_mean_takes_axes_and_keeps_them_on_request():
    values = jnp.array([[1.0, 2.0, jnp.nan], [4.0, jnp.nan, jnp.nan]])
    mask = ~jnp.isnan(values)
    np.testing.assert_array_equal(core.masked_mean(values, mask, axis=1), [1.5, 4.0])
    np.testing.assert_array_equal(core.masked_mean(values, mask, axis=0), [2.5, 2.0, 0.0])
    np.testing.assert_array_equal(
        core.masked_mean(values, mask, axis=1, keepdims=True), [[1.5], [4]]
    )
    assert_close(core.masked_mean(values, mask), 7 / 3)


def test_a_broadcast_mask_counts_each_entry():
    total, count = core.masked_sum_count(jnp.ones((2, 3)), jnp.array([[True], [False]]))
    assert (total, count) == (3, 3)
    total, count = core.masked_sum_count(jnp.ones((2, 3)), jnp.array([[True], [True]]), axis=0)
    np.testing.assert_array_equal(count, [2, 2, 2])


def test_fill_masked_puts_the_fill_in_the_same_dtype():
    filled = core.fill_masked(jnp.ones(2, jnp.bfloat16), jnp.array([True, False]), fill=7.0)
    assert filled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(filled, np.float32), [1, 7])


def test_mean_from_divides_and_an_empty_count_gives_zero():
    total, count = jnp.array([6.0, 5.0, 0.0, 1.0]), jnp.array([4.0, 0.0, 0.0, -1.0])
    np.testing.assert_array_equal(core.mean_from(total, count), [1.5, 0, 0, 0])
    gradient = jax.grad(lambda x: core.mean_from(x, count).sum())(total)
    np.testing.assert_array_equal(gradient, [0.25, 0, 0, 0])
