"""One softmax over several sets of keys: as over all of them, and so is its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.attention_scores import EVERYTHING, Scoring
from cotjax.models.attention_softmax import Keys, attend

B, K, G, R, Q, D, S, OWN = 2, 2, 3, 2, 4, 5, 6, 3


def problem(dtype=jnp.float32):
    """Queries, keys that all completions share, and keys of each one."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    query = draw(B, K, G, R, Q, D)
    shared = draw(B, K, D, S), draw(B, K, S, D)
    own = draw(B, K, G, D, OWN), draw(B, K, G, OWN, D)
    seen = jnp.asarray(rng.random((B, 1, 1, 1, 1, S)) < 0.7).at[..., 0].set(True)
    causal = jnp.arange(Q)[:, None] >= jnp.arange(OWN)
    return query, shared, own, (seen, causal)


def ours(scoring, query, shared, own, masks):
    return attend(scoring, query, [Keys(*shared, masks[0]), Keys(*own, masks[1])])


def dense(scoring, query, shared, own, masks):
    """All keys in one array, one softmax, and what autodiff makes of it."""
    key = jnp.concatenate([jnp.broadcast_to(shared[0][:, :, None], (B, K, G, D, S)), own[0]], -1)
    value = jnp.concatenate([jnp.broadcast_to(shared[1][:, :, None], (B, K, G, S, D)), own[1]], -2)
    mask = jnp.concatenate([
        jnp.broadcast_to(masks[0], (B, K, G, R, Q, S)),
        jnp.broadcast_to(masks[1], (B, K, G, R, Q, OWN)),
    ], -1)  # fmt: skip
    scores = jnp.einsum("bkgrqd,bkgds->bkgrqs", query, key) * (scoring.scale or D**-0.5)
    if scoring.softcap:
        scores = scoring.softcap * jnp.tanh(scores / scoring.softcap)
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bkgrqs,bkgsd->bkgrqd", weights, value)


@pytest.mark.parametrize("scoring", [EVERYTHING, Scoring(scale=0.3, softcap=1.5)])
def test_values_and_gradients_are_those_of_one_set_of_keys(scoring):
    query, shared, own, masks = problem()
    weight = jnp.asarray(np.random.default_rng(1).normal(size=query.shape), jnp.float32)

    def total(function):
        return lambda *xs: (weight * function(scoring, *xs, masks)).sum()

    for function, argument in ((total(ours), total(dense)),):
        np.testing.assert_allclose(
            function(query, shared, own), argument(query, shared, own), rtol=1e-5
        )
        grads = [jax.grad(f, argnums=(0, 1, 2))(query, shared, own) for f in (function, argument)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *grads)


def test_what_is_not_seen_changes_nothing_and_has_no_gradient():
    query, shared, own, masks = problem()
    hidden = ~np.asarray(masks[0])[:, 0, 0, 0, 0]
    moved = jnp.where(hidden[:, None, None, :], shared[0] + 9, shared[0]), shared[1]
    before, after = (ours(EVERYTHING, query, keys, own, masks) for keys in (shared, moved))
    np.testing.assert_array_equal(before, after)
    by_key = jax.grad(lambda k: ours(EVERYTHING, query, (k, shared[1]), own, masks).sum())(
        shared[0]
    )
    assert not np.asarray(jnp.where(hidden[:, None, None, :], by_key, 0)).any()


def test_a_query_that_sees_nothing_stays_finite_and_gives_no_gradient():
    query, shared, own, _ = problem()
    nothing = jnp.zeros((1,) * 6, bool), jnp.zeros((Q, OWN), bool)
    assert np.isfinite(np.asarray(ours(EVERYTHING, query, shared, own, nothing))).all()
    slope = jax.grad(lambda q: ours(EVERYTHING, q, shared, own, nothing).sum())(query)
    assert not np.asarray(slope).any()


def test_the_result_has_the_values_format():
    query, shared, own, masks = problem(jnp.bfloat16)
    assert ours(EVERYTHING, query, shared, own, masks).dtype == jnp.bfloat16
