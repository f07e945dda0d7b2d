"""Laws of the per-token policy losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotjax import core
from tests import oracles
from tests.oracles import COMPOSED, assert_close

LOSSES = {
    "clipped": lambda logp, old, advantage, mask: core.clipped_surrogate(logp, old, advantage),
    "dual": lambda logp, old, advantage, mask: core.clipped_surrogate(
        logp, old, advantage, clip_low=0.1, clip_high=0.3, dual_clip=1.5
    ),
    "sequence": lambda logp, old, advantage, mask: core.sequence_surrogate(
        logp, old, advantage, mask, clip_low=0.1, clip_high=0.15
    ),
    "cispo": lambda logp, old, advantage, mask: core.cispo_surrogate(
        logp, old, advantage, max_ratio=1.2
    ),
    "bridge": lambda logp, old, advantage, mask: core.bridge_release(
        logp, old, advantage, mask, beta=0.1
    ),
}


def draw(seed=0, shape=(2, 3, 4), distance=0.5):
    """logp, logp_old, advantage [..., 1], mask."""
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(size=shape)
    arrays = logp, logp - distance * rng.normal(size=shape), rng.normal(size=(*shape[:-1], 1))
    mask = jnp.asarray(rng.random(shape) < 0.7).at[..., 0].set(True)
    return *(jnp.asarray(x, jnp.float32) for x in arrays), mask


def oracle(name, logp, old, advantage, mask):
    """The loss of each token, as loops; masked tokens are 0 where the loss knows the mask."""
    result = []
    for x, o, (a,), m in zip(logp, old, advantage, mask, strict=True):
        whole = {
            "sequence": lambda x=x, o=o, a=a, m=m: oracles.surrogate(
                oracles.sequence_ratio(x, o, m), a, 0.1, 0.15
            ),
            "bridge": lambda x=x, o=o, a=a, m=m: oracles.bridge_release(x, o, a, m, 0.1),
        }
        ratio = [math.exp(p - q) for p, q in zip(x, o, strict=True)]
        if name in whole:
            result.append([whole[name]() if counts else 0.0 for counts in m])
        elif name == "clipped":
            result.append([oracles.surrogate(r, a, 0.2, 0.2) for r in ratio])
        elif name == "dual":
            result.append([oracles.surrogate(r, a, 0.1, 0.3, 1.5) for r in ratio])
        else:
            result.append([-min(r, 1.2) * a * p for r, p in zip(ratio, x, strict=True)])
    return result


def value_and_slopes(name, logp, old, advantage, mask):
    """The loss, and the gradient of its sum by each input."""
    value, pull_back = jax.vjp(LOSSES[name], logp, old, advantage, mask)
    return value, pull_back(jnp.ones_like(value))[:3]


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), distance=st.sampled_from([0.05, 0.5, 2.0]))
def test_losses_equal_the_loops(name, seed, distance):
    inputs = draw(seed, distance=distance)
    value, slopes = value_and_slopes(name, *inputs)
    assert_close(oracles.rows(value), oracle(name, *map(oracles.rows, inputs)))
    assert not slopes[1].any()  # the sampling policy, or the reference, is a constant
    assert not slopes[2].any()  # and so is the advantage


@pytest.mark.parametrize("name", ["clipped", "dual", "sequence", "bridge"])
def test_gradients_equal_finite_differences(name):
    inputs = draw(1)
    _, (slope, _, _) = value_and_slopes(name, *inputs)
    logp, *rest = map(oracles.rows, inputs)
    expected = oracles.difference(lambda x: sum(map(sum, oracle(name, x, *rest))), logp)
    assert_close(oracles.rows(slope), expected, COMPOSED)


@pytest.mark.parametrize("name", ["clipped", "dual", "sequence", "cispo"])
def test_on_policy_the_gradient_is_the_advantage(name):
    logp, _, advantage, mask = draw(2)
    value, (slope, _, _) = value_and_slopes(name, logp, logp, advantage, mask)
    mask = jnp.ones_like(mask) if name != "sequence" else mask
    expected = jnp.where(mask, -advantage, 0)
    assert_close(slope, expected)
    if name != "cispo":
        assert_close(value, expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.3, 1.0, False),  # above the clip, nothing left to gain
        (1.3, -1.0, True),
        (0.7, -1.0, False),
        (0.7, 1.0, True),
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_the_clip_stops_the_gradient_only_where_it_would_gain(ratio, advantage, moves):
    logp, old, a = (
        jnp.log(jnp.array([[0.5 * ratio]])),
        jnp.log(jnp.array([[0.5]])),
        jnp.array([[advantage]]),
    )
    _, (slope, _, _) = value_and_slopes("clipped", logp, old, a, jnp.array([[True]]))
    assert_close(slope[0, 0], -ratio * advantage if moves else 0)


def test_the_two_clips_are_their_own():
    logp, old = jnp.log(jnp.array([[1.5, 0.5]])), jnp.zeros((1, 2))
    loss = core.clipped_surrogate(logp, old, jnp.array([[1.0, -1.0]]), clip_low=0.1, clip_high=0.28)
    assert_close(loss, [[-1.28, 0.9]])


def test_the_dual_clip_bounds_only_bad_tokens():
    logp, old = jnp.log(jnp.full((1, 2), 10.0)), jnp.zeros((1, 2))
    advantage = jnp.array([[-1.0, 1.0]])
    free = core.clipped_surrogate(logp, old, advantage)
    assert_close(free, [[10, -1.2]])
    assert_close(core.clipped_surrogate(logp, old, advantage, dual_clip=3.0), [[3, -1.2]])


@pytest.mark.parametrize("bound", [1.0, 0.5])
def test_a_dual_clip_that_is_no_bound_is_refused(bound):
    with pytest.raises(ValueError, match=f"dual_clip is {bound}; needs to be above 1"):
        core.clipped_surrogate(
            jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1)), dual_clip=bound
        )


def test_a_log_ratio_is_clamped_on_request():
    logp, old = jnp.array([[5.0, -5.0, 1.0]]), jnp.zeros((1, 3))
    ratio = core.importance_ratio(logp, old, max_log_ratio=2.0)
    assert_close(ratio, [[math.exp(2), math.exp(-2), math.exp(1)]])
    loss = core.clipped_surrogate(logp, old, jnp.array([[-1.0]]), max_log_ratio=2.0)
    assert_close(loss, [[math.exp(2), 0.8, math.exp(1)]])


def test_a_sequence_of_one_token_is_a_token():
    logp, old, advantage, _ = draw(3, (5, 1))
    mask = jnp.ones((5, 1), bool)
    clips = {"clip_low": 0.1, "clip_high": 0.2}
    sequence = core.sequence_surrogate(logp, old, advantage, mask, **clips)
    assert_close(sequence, core.clipped_surrogate(logp, old, advantage, **clips))


def test_the_sequence_ratio_is_a_geometric_mean_over_what_counts():
    logp = jnp.log(jnp.array([[8.0, 2.0, 99.0], [1.0, 1.0, 1.0]]))
    mask = jnp.array([[True, True, False], [False, False, False]])
    assert_close(core.sequence_ratio(logp, jnp.zeros((2, 3)), mask), [[4], [1]])


def test_cispo_keeps_the_gradient_of_every_token():
    logp, old = jnp.log(jnp.array([[4.0, 0.01]])), jnp.zeros((1, 2))
    advantage = jnp.array([[2.0]])
    slope = jax.grad(lambda x: core.cispo_surrogate(x, old, advantage, max_ratio=3.0).sum())(logp)
    assert_close(slope, [[-6, -0.02]])


def test_the_release_pulls_in_neither_direction_at_the_reference():
    logp, _, _, mask = draw(4)
    slope = jax.grad(
        lambda x: core.bridge_release(x, logp, jnp.zeros((2, 3, 1)), mask, beta=0.1).sum()
    )(logp)
    assert not slope.any()


def test_the_importance_weight_is_truncated_above_only():
    logp_old, sampler = (
        jnp.log(jnp.array([[0.5, 0.8, 0.01]])),
        jnp.log(jnp.array([[0.4, 0.1, 0.5]])),
    )
    weight = core.truncated_importance_weight(logp_old, sampler, cap=2.0)
    assert_close(weight, [[1.25, 2, 0.02]])
    for argument in (0, 1):
        slope = jax.grad(
            lambda a, b: core.truncated_importance_weight(a, b, cap=2.0).sum(), argnums=argument
        )(logp_old, sampler)
        assert not slope.any()


@pytest.mark.parametrize("name", ["sequence", "bridge"])
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_masked_tokens_change_neither_value_nor_gradient(name, poison):
    logp, old, advantage, mask = draw(5)
    clean = value_and_slopes(name, logp, old, advantage, mask)
    poisoned = value_and_slopes(
        name, jnp.where(mask, logp, poison), jnp.where(mask, old, poison), advantage, mask
    )
    for expected, actual in zip(jax.tree.leaves(clean), jax.tree.leaves(poisoned), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert not np.asarray(poisoned[1][0])[~np.asarray(mask)].any()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name):
    *arrays, mask = draw(6)
    half = [x.astype(jnp.bfloat16) for x in arrays]
    value, _ = value_and_slopes(name, *half, mask)
    assert value.dtype == jnp.float32
    expected, _ = value_and_slopes(name, *(x.astype(jnp.float32) for x in half), mask)
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_an_advantage_per_token_is_the_same_as_one_per_sequence(name):
    logp, old, advantage, mask = draw(7)
    spread = jnp.broadcast_to(advantage, logp.shape)
    one, _ = value_and_slopes(name, logp, old, advantage, mask)
    each, _ = value_and_slopes(name, logp, old, spread, mask)
    assert_close(each, one)
