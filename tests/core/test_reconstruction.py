"""Laws of the supervised loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from tests import oracles_distillation as oracle

COMPOSED = 1e-4


@jax.jit
def both(logits, targets, weight):
    def total(logits):
        value = core.reconstruction_loss(logits, targets, weight)
        return value.sum(), value

    (_, value), slope = jax.value_and_grad(total, has_aux=True)(logits)
    return value, slope


def problem(seed, counts=0.6):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.standard_normal((2, 4, 5))).astype(np.float32)
    targets = rng.integers(0, 5, (2, 4)).astype(np.int32)
    weight = np.where(rng.random((2, 4)) < counts, rng.random((2, 4)) + 0.5, 0).astype(np.float32)
    return logits, targets, weight


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), counts=st.sampled_from([0.0, 0.5, 1.0]))
def test_equals_the_loops(seed, counts):
    logits, targets, weight = problem(seed, counts)
    value, slope = both(logits, targets, weight)
    expected = oracle.reconstruction_loss(logits, targets, weight)
    np.testing.assert_allclose(value, expected, rtol=COMPOSED, atol=1e-5)
    chosen = np.eye(5)[targets]
    by_hand = weight[..., None] * (np.asarray(jax.nn.softmax(logits)) - chosen)
    np.testing.assert_allclose(slope, by_hand, atol=1e-5)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_weight_zero_hides_everything(poison):
    logits, targets, weight = problem(1)
    counts = weight > 0
    assert 0 < counts.sum() < counts.size
    poisoned = np.where(counts[..., None], logits, np.float32(poison))
    value, slope = both(poisoned, np.where(counts, targets, -100), weight)
    clean, clean_slope = both(logits, targets, weight)
    np.testing.assert_array_equal(value, clean)
    np.testing.assert_array_equal(slope, clean_slope)
    np.testing.assert_array_equal(slope[~counts], 0)


def test_no_target_gives_zero_and_a_finite_gradient():
    nothing = np.full((2, 4, 5), np.nan, np.float32)
    value, slope = both(nothing, np.full((2, 4), -100, np.int32), np.zeros((2, 4), np.float32))
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(slope, 0)


def test_weights_are_linear():
    logits, targets, weight = problem(2)
    value, slope = both(logits, targets, weight)
    doubled, doubled_slope = both(logits, targets, 2 * weight)
    np.testing.assert_allclose(doubled, 2 * value, rtol=1e-6)
    np.testing.assert_allclose(doubled_slope, 2 * slope, rtol=1e-5)


def test_half_precision_logits_give_a_float32_loss():
    logits, targets, weight = problem(3)
    value, slope = both(logits.astype(jnp.bfloat16), targets, weight.astype(jnp.bfloat16))
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    expected = oracle.reconstruction_loss(logits, targets, weight)
    np.testing.assert_allclose(value, expected, rtol=0.05, atol=0.05)
