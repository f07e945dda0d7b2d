"""Keys and values in a cache's format: how near they stay, and where a token is written."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.kv_cache import keep, write

RNG = np.random.default_rng(0)
KEYS = jnp.asarray(RNG.normal(size=(2, 3, 8, 5)), jnp.float32)  # [*N, D, S]
VALUES = jnp.asarray(RNG.normal(size=(2, 3, 5, 8)), jnp.float32)  # [*N, S, D]


@pytest.mark.parametrize(("x", "axis"), [(KEYS, -2), (VALUES, -1)], ids=["keys", "values"])
def test_int8_is_within_half_a_step_of_each_token_s_largest(x, axis):
    kept = keep(x, "int8", axis=axis)
    assert kept.values.dtype == jnp.int8 and kept.scale is not None
    assert kept.scale.shape == (2, 3, 1, 5)
    scale = kept.scale if axis == -2 else jnp.matrix_transpose(kept.scale)
    error = np.abs(np.asarray(kept.values * scale - x))
    assert (error <= np.asarray(scale) / 2 + 1e-7).all()
    np.testing.assert_allclose(np.abs(kept.values).max(axis=axis), 127)


def test_other_formats_have_no_scale():
    assert keep(KEYS, None, axis=-2).values is KEYS
    kept = keep(KEYS, "bfloat16", axis=-2)
    assert kept.values.dtype == jnp.bfloat16 and kept.scale is None
    weights = jnp.ones((2, 3, 4, 5))
    assert kept.scaled(weights) is weights


def test_scaled_scores_are_those_of_the_kept_keys():
    kept = keep(KEYS, "int8", axis=-2)
    query = jnp.asarray(RNG.normal(size=(2, 3, 4, 8)), jnp.float32)
    scores = kept.scaled(query @ kept.values.astype(jnp.float32))
    np.testing.assert_allclose(scores, query @ KEYS, atol=0.15)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_whoever_attends_to_a_nan_sees_it(poison):
    kept = keep(KEYS.at[0, 0, 2, 3].set(poison), "int8", axis=-2)
    shown = np.asarray(kept.values * kept.scale)
    assert not np.isfinite(shown[0, 0, :, 3]).all() and np.isfinite(shown[0, 0, :, :3]).all()


def test_a_token_of_zeros_stays_zero():
    kept = keep(jnp.zeros((1, 4, 2)), "int8", axis=-2)
    assert not np.asarray(kept.values).any() and np.isfinite(np.asarray(kept.scale)).all()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("at", [-1, 0, 3, 4, 5])
def test_a_token_is_written_at_its_place_and_nowhere_outside(dtype, at):
    for x, axis, tokens in ((KEYS, -2, -1), (VALUES, -1, -2)):
        block = keep(x, dtype, axis=axis)
        token = keep(jnp.take(2 * x, jnp.array([0]), axis=tokens), dtype, axis=axis)
        found = write(block, token, jnp.int32(at), axis=tokens)
        expected = np.array(block.values)
        if 0 <= at < 5:
            place = [slice(None)] * 4
            place[tokens] = slice(at, at + 1)
            expected[tuple(place)] = token.values
        np.testing.assert_array_equal(found.values, expected)
        assert (found.scale is None) == (dtype == "float32")
