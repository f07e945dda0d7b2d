"""How a layer scores a key, and how far it looks back."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.attention_scores import EVERYTHING, Scoring

RNG = np.random.default_rng(0)
QUERY = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
KEY = jnp.asarray(RNG.normal(size=(2, 4, 5)), jnp.float32)


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 0.5), (2.0, 2.0)])
def test_a_score_is_the_scaled_product(scale, factor):
    scores = Scoring(scale=scale)(QUERY, KEY)
    np.testing.assert_allclose(scores, factor * np.asarray(QUERY) @ np.asarray(KEY), rtol=1e-5)


def test_a_soft_cap_bounds_scores_and_leaves_small_ones():
    plain, capped = EVERYTHING(QUERY, KEY), Scoring(softcap=0.5)(QUERY, KEY)
    np.testing.assert_allclose(capped, 0.5 * np.tanh(np.asarray(plain) / 0.5), rtol=1e-5)
    assert np.abs(capped).max() < 0.5 < np.abs(plain).max()


def test_scores_are_float32_whatever_products_are_summed_in():
    half = Scoring(dtype=jnp.bfloat16)
    query, key = QUERY.astype(jnp.bfloat16), KEY.astype(jnp.bfloat16)
    assert half.product(query, key).dtype == jnp.bfloat16
    assert half(query, key).dtype == jnp.float32


@pytest.mark.parametrize(
    ("window", "seen"), [(0, [0, 1, 1, 1, 1]), (1, [0, 1, 0, 0, 0]), (3, [0, 1, 1, 1, 0])]
)
def test_a_window_counts_the_token_itself_and_nobody_sees_ahead(window, seen):
    distance = jnp.array([-1, 0, 1, 2, 3])
    np.testing.assert_array_equal(Scoring(window=window).sees(distance), np.array(seen, bool))
