"""Laws of the advantages, and the numbers on which other systems differ."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cotjax import core
from cotjax.core.advantage import SCALES
from tests import oracles
from tests.oracles import COMPOSED, assert_close

ONE_WINNER = jnp.array([[1.0, 0.0, 0.0, 0.0]])

each_scale = pytest.mark.parametrize("scale", SCALES)


def draw(seed, shape=(3, 4)):
    rng = np.random.default_rng(seed)
    reward = jnp.asarray(rng.integers(-2, 3, shape) * 0.7, jnp.float32)
    return reward, jnp.asarray(rng.random(shape) < 0.7)


@pytest.mark.parametrize(
    ("settings", "winner"),
    [
        ({"scale": "none"}, 0.7500),
        ({"ddof": 1, "eps": 1e-4}, 1.4997),
        ({"ddof": 1, "eps": 1e-6}, 1.5000),
        ({}, 1.5000),
        ({"ddof": 0}, 1.7320),  # 1.7321 without eps
        ({"ddof": 0, "eps": 0.0}, 1.7321),
        ({"scale": "mean", "eps": 0.0}, 3.0),
    ],
)
def test_the_worked_number(settings, winner):
    advantage = core.group_advantage(ONE_WINNER, **settings)
    np.testing.assert_allclose(advantage[0, 0], winner, atol=5e-5)
    np.testing.assert_allclose(advantage[0, 1:], -winner / 3, atol=5e-5)


@each_scale
@settings(max_examples=12)
@given(ddof=st.sampled_from([0, 1]), eps=st.sampled_from([1e-6, 0.1]), seed=st.integers(0, 2**16))
def test_group_advantage_equals_the_loops(scale, ddof, eps, seed):
    reward, mask = draw(seed)
    advantage = core.group_advantage(reward, scale=scale, ddof=ddof, eps=eps, mask=mask)
    inputs = oracles.rows(reward), scale, ddof, eps, oracles.rows(mask)
    assert_close(advantage, oracles.group_advantage(*inputs), COMPOSED)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**16))
def test_leave_one_out_equals_the_loops(seed):
    reward, mask = draw(seed)
    expected = oracles.leave_one_out_advantage(oracles.rows(reward), oracles.rows(mask))
    assert_close(core.leave_one_out_advantage(reward, mask=mask), expected)


@each_scale
def test_no_mask_counts_everything(scale):
    reward, _ = draw(0)
    everything = jnp.ones(reward.shape, bool)
    masked = core.group_advantage(reward, scale=scale, mask=everything)
    np.testing.assert_array_equal(core.group_advantage(reward, scale=scale), masked)
    masked = core.leave_one_out_advantage(reward, mask=everything)
    np.testing.assert_array_equal(core.leave_one_out_advantage(reward), masked)


@each_scale
@settings(max_examples=10)
@given(reward=st.floats(-10, 10, width=32), size=st.integers(2, 4))
def test_equal_rewards_are_exactly_zero(scale, reward, size):
    mask = jnp.arange(4)[None] < size
    equal = jnp.where(mask, jnp.float32(reward), -77)  # whatever the others hold
    np.testing.assert_array_equal(
        core.group_advantage(equal, scale=scale, mask=mask), np.zeros((1, 4))
    )
    np.testing.assert_array_equal(core.leave_one_out_advantage(equal, mask=mask), np.zeros((1, 4)))


@each_scale
def test_a_group_with_one_that_counts_is_zero(scale):
    reward, mask = jnp.array([[3.0, jnp.nan], [1.0, 2.0]]), jnp.array([[True, False], [True, True]])
    advantage = core.group_advantage(reward, scale=scale, mask=mask)
    np.testing.assert_array_equal(advantage[0], [0, 0])
    assert advantage[1, 1] > 0
    np.testing.assert_array_equal(
        core.leave_one_out_advantage(reward, mask=mask), [[0, 0], [-1, 1]]
    )


@each_scale
def test_an_empty_batch_is_zero(scale):
    reward, mask = jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool)
    np.testing.assert_array_equal(
        core.group_advantage(reward, scale=scale, mask=mask), np.zeros((2, 3))
    )
    np.testing.assert_array_equal(core.leave_one_out_advantage(reward, mask=mask), np.zeros((2, 3)))
    np.testing.assert_array_equal(core.informative_groups(reward, mask=mask), [False, False])


@each_scale
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
def test_unscored_completions_change_nothing(scale, poison):
    reward, mask = draw(1)
    poisoned = jnp.where(mask, reward, poison)
    for function in (
        functools.partial(core.group_advantage, scale=scale),
        core.leave_one_out_advantage,
        core.informative_groups,
    ):
        np.testing.assert_array_equal(function(poisoned, mask=mask), function(reward, mask=mask))


@pytest.mark.parametrize("scale", ["std", "none", "batch_std"])
def test_a_constant_added_to_the_rewards_changes_nothing(scale):
    reward, mask = draw(2)
    moved = core.group_advantage(reward + 8, scale=scale, mask=mask)
    assert_close(moved, core.group_advantage(reward, scale=scale, mask=mask), COMPOSED)


@each_scale
def test_permuting_a_group_permutes_its_advantages(scale):
    reward, mask = draw(3)
    order = jnp.array([2, 0, 3, 1])
    moved = core.group_advantage(reward[:, order], scale=scale, mask=mask[:, order])
    assert_close(moved, core.group_advantage(reward, scale=scale, mask=mask)[:, order])


@pytest.mark.parametrize("scale", ["std", "none", "mean"])
def test_groups_do_not_touch_each_other(scale):
    reward, mask = draw(4)
    advantage = core.group_advantage(reward, scale=scale, mask=mask)
    changed = core.group_advantage(reward.at[0].set(7.0), scale=scale, mask=mask)
    np.testing.assert_array_equal(changed[1:], advantage[1:])


def test_a_better_reward_never_gets_less_even_below_zero():
    advantage = core.group_advantage(jnp.array([[-1.0, -3.0]]), scale="mean")
    assert_close(advantage, [[0.5, -0.5]])


def test_leave_one_out_is_the_centred_reward_enlarged():
    reward, _ = draw(5)
    centred = core.group_advantage(reward, scale="none")
    assert_close(core.leave_one_out_advantage(reward), 4 / 3 * np.asarray(centred))


@each_scale
def test_no_gradient_reaches_the_rewards(scale):
    reward, _ = draw(6)
    for function in (
        functools.partial(core.group_advantage, scale=scale),
        core.leave_one_out_advantage,
    ):
        gradient = jax.grad(lambda r, f=function: (f(r) ** 2).sum())(reward)
        np.testing.assert_array_equal(gradient, np.zeros((3, 4)))


@each_scale
def test_half_precision_rewards_are_read_as_float32(scale):
    reward = draw(7)[0].astype(jnp.bfloat16)
    advantage = core.group_advantage(reward, scale=scale)
    assert advantage.dtype == jnp.float32
    expected = core.group_advantage(reward.astype(jnp.float32), scale=scale)
    np.testing.assert_array_equal(advantage, expected)


@pytest.mark.parametrize("scale", ["std", "batch_std"])
def test_eight_devices_equal_one_and_compiled_equals_eager(scale):
    reward, mask = draw(8, (8, 4))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put((reward, mask), NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(functools.partial(core.group_advantage, scale=scale))
    eight = compiled(sharded[0], mask=sharded[1])
    assert_close(eight, core.group_advantage(reward, scale=scale, mask=mask))


@pytest.mark.parametrize("function", [core.group_advantage, core.leave_one_out_advantage])
def test_a_group_of_one_is_refused(function):
    with pytest.raises(ValueError, match="G = 1 completions .* Raise rollout.group_size"):
        function(jnp.ones((3, 1)))
    assert function(jnp.ones((1, 2))).shape == (1, 2)


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="scale is 'max'; needs one of std, none, mean, batch_std"):
        core.group_advantage(ONE_WINNER, scale="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="ddof is 2; needs 0 or 1"):
        core.group_advantage(ONE_WINNER, ddof=2)


@pytest.mark.parametrize("scale", ["std", "mean", "batch_std"])
def test_equal_rewards_have_no_advantage_without_an_eps(scale):
    reward = jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    advantage = np.asarray(core.group_advantage(reward, scale=scale, eps=0.0))
    np.testing.assert_array_equal(advantage[:2], 0)
    assert advantage[2, 1] > 0 and np.isfinite(advantage).all()
    alone = core.group_advantage(reward[:2], scale=scale, eps=0.0)
    np.testing.assert_array_equal(alone, 0)


def test_informative_groups_are_those_whose_rewards_differ():
    reward = jnp.array([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [-1.0, 3.0, -1.0]])
    np.testing.assert_array_equal(core.informative_groups(reward), [False, True, True])
    mask = jnp.array([[True, True, True], [True, True, False], [True, True, False]])
    np.testing.assert_array_equal(core.informative_groups(reward, mask=mask), [False, False, True])


def test_groups_without_signal_are_those_without_advantage():
    reward, mask = draw(9, (8, 4))
    signal = (core.group_advantage(reward, mask=mask) != 0).any(axis=1)
    np.testing.assert_array_equal(core.informative_groups(reward, mask=mask), signal)


def test_overlong_penalty_is_a_ramp():
    length = jnp.array([0.0, 79.0, 80.0, 85.0, 90.0, 99.0, 100.0, 500.0])
    expected = [0, 0, 0, -0.25, -0.5, -0.95, -1, -1]
    assert_close(core.overlong_penalty(length, max_length=100, buffer=20), expected)
    assert_close(core.overlong_penalty(jnp.array([5.0]), max_length=10, buffer=10), [-0.5])
    assert_close(core.overlong_penalty(jnp.array([9.0, 10.0]), max_length=10, buffer=1), [0, -1])


@pytest.mark.parametrize("buffer", [0, -1, 11])
def test_an_impossible_buffer_is_refused(buffer):
    with pytest.raises(ValueError, match=f"buffer is {buffer}; needs 1 to 10"):
        core.overlong_penalty(jnp.ones(1), max_length=10, buffer=buffer)
