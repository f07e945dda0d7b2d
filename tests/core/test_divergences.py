"""Terms of divergences: their sums are the divergences, and every term and slope is finite."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.core.divergences import (
    LOG_TINY,
    Kind,
    checked,
    divergence,
    jensen_shannon,
    kl,
    kl_to_mixture,
    tempered,
    terms_of,
    total_variation,
)
from tests.oracles import assert_close
from tests.oracles_distillation import divergence_of

KINDS = typing.get_args(Kind)
P = np.array([0.5, 0.3, 0.2, 0.0])
Q = np.array([0.1, 0.0, 0.6, 0.3])


def logs(p):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(p), jnp.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_sum_to_the_divergence_of_the_loops(kind):
    terms = terms_of(kind, beta=0.3, alpha=0.2)(logs(P), logs(Q))
    expected = divergence_of(kind, P, Q, beta=0.3, alpha=0.2)
    assert terms.shape == (4,)
    assert_close(terms.sum(), expected, 1e-4 if "skew" in kind else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_term_and_slope_is_finite_where_a_probability_is_zero(kind):
    function = terms_of(kind, beta=0.5, alpha=0.1)
    for argument in (0, 1):
        slope = jax.grad(lambda *logp, f=function: f(*logp).sum(), argnums=argument)(
            jnp.where(jnp.isneginf(logs(P)), -jnp.inf, logs(P)), logs(Q)
        )
        assert np.isfinite(np.asarray(slope)).all()
    assert np.isfinite(np.asarray(function(logs(P), logs(Q)))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_distributions_have_no_term(kind):
    same = logs(P[:3])
    np.testing.assert_allclose(terms_of(kind, beta=0.3, alpha=0.2)(same, same), 0, atol=1e-7)


def test_a_forbidden_token_costs_the_smallest_float_s_logarithm():
    terms = kl(logs(np.array([1.0, 0.0])), logs(np.array([0.0, 1.0])))
    np.testing.assert_allclose(terms, [-LOG_TINY, 0], rtol=1e-6)


def test_limits_of_the_shares_are_the_plain_divergences():
    p, q = logs(P[:3]), logs(np.array([0.1, 0.3, 0.6]))
    np.testing.assert_array_equal(kl_to_mixture(p, q, 0), kl(p, q))
    np.testing.assert_array_equal(jensen_shannon(p, q, 0), kl(p, q))
    np.testing.assert_array_equal(jensen_shannon(p, q, 1), kl(q, p))
    np.testing.assert_array_equal(total_variation(p, q), total_variation(q, p))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "kl"}, "kind = 'kl': there are forward_kl"),
        ({"beta": 1.1}, "beta = 1.1"),
        ({"alpha": 1.0}, "alpha = 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        terms_of(**{"kind": "forward_kl"} | settings)


def test_a_temperature_divides_and_must_be_above_zero():
    np.testing.assert_allclose(tempered(jnp.array([2.0, 4.0], jnp.bfloat16), 2.0), [1, 2])
    assert tempered(jnp.array([2.0], jnp.bfloat16), 2.0).dtype == jnp.float32
    assert checked(jnp.float32(0)) == 0, "a traced one is the caller's"
    with pytest.raises(ValueError, match="temperature = 0"):
        checked(0)


def test_masked_positions_are_zero_with_nan_in_them():
    rng = np.random.default_rng(0)
    teacher, student = (jnp.asarray(rng.normal(size=(3, 5)), jnp.float32) for _ in range(2))
    mask = jnp.array([True, False, True])
    poisoned = student.at[1].set(jnp.nan)
    whole = divergence("reverse_kl", teacher, student)
    found = divergence("reverse_kl", teacher, poisoned, mask=mask)
    assert_close(found, jnp.where(mask, whole, 0))
