"""AdamW with its schedule, and settings that move with the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.config import OptimizerConfig
from cotjax.training.optimizer import make_optimizer, ramp

# With b1 = b2 = 0, Adam's step is the learning rate times the gradient's sign.


def rates(updates, **settings):
    settings = {"learning_rate": 1.0, "b1": 0.0, "b2": 0.0, "weight_decay": 0.0} | settings
    optimizer = make_optimizer(OptimizerConfig(**settings), updates)
    params = jnp.ones(2)
    state, steps = optimizer.init(params), []
    for _ in range(updates):
        change, state = optimizer.update(jnp.array([0.1, -0.3]), state, params)
        np.testing.assert_allclose(change[0], -change[1], rtol=1e-5)
        steps.append(-float(change[0]))
    return steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ({"schedule": "cosine"}, [(1 + np.cos(np.pi * step / 6)) / 2 for step in range(6)]),
        ({"schedule": "linear", "warmup_steps": 2}, [0, 0.5, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_schedules_warm_up_and_end_with_the_run(settings, expected):
    np.testing.assert_allclose(rates(6, **settings), expected, atol=1e-5)


def test_weight_decay_is_decoupled_and_follows_the_learning_rate():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.5, weight_decay=0.1), 3)
    params = jnp.array([2.0])
    change, _ = optimizer.update(jnp.zeros(1), optimizer.init(params), params)
    np.testing.assert_allclose(change, [-0.5 * 0.1 * 2.0], rtol=1e-6)


def test_a_gradient_is_scaled_down_to_the_largest_norm():
    # With b1 = b2 = 0 Adam divides by the gradient's size; with b2 near 1 it shows after two steps.
    def second_step(scale, most):
        config = OptimizerConfig(max_grad_norm=most, weight_decay=0.0)
        optimizer, params = make_optimizer(config, 2), jnp.ones(2)
        state = optimizer.init(params)
        _, state = optimizer.update(jnp.array([0.3, 0.4]), state, params)
        return optimizer.update(scale * jnp.array([0.3, 0.4]), state, params)[0]

    np.testing.assert_allclose(second_step(100.0, 0.5), second_step(1.0, 0.5), rtol=1e-5)
    assert abs(second_step(100.0, 1e9) - second_step(1.0, 1e9)).max() > 1e-6


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("constant", [2, 2, 2]), ("linear", [2, 3, 4]), ("cosine", [2, 3, 4])],
)
def test_a_ramp_goes_from_its_start_to_its_end(kind, expected):
    schedule = ramp(kind, 2.0, 4.0, 3)
    assert [schedule(step) for step in range(3)] == pytest.approx(expected)


def test_a_ramp_of_one_step_stays_at_its_start():
    assert [ramp(kind, 2.0, 4.0, 1)(0) for kind in ("linear", "cosine")] == [2.0, 2.0]
