"""A user's loss in a policy stage: beside all that the built-in terms have."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.config import Config
from cotjax.errors import PluginError
from cotjax.stages.policy_loss import open_objective, resolved, user_term


def objective(function, settings=None, **policy):
    own = {"term": function, "term_settings": settings or {}, **policy}
    config = Config.for_stage("grpo", name="r", policy=own)
    return open_objective(config.policy, user_term(config))


def term(logp, logp_old, advantage, mask, *, cap=1.0):
    return -jnp.minimum(jnp.exp(logp - logp_old), cap) * advantage


ARRAYS = (
    jnp.zeros((1, 2, 3)),
    jnp.zeros((1, 2, 3)),
    jnp.ones((1, 2, 3)),
    jnp.ones((1, 2, 3), bool),
)


def test_its_settings_are_its_keywords():
    np.testing.assert_array_equal(objective(term).term(*ARRAYS), -jnp.ones((1, 2, 3)))
    half = objective(term, {"cap": 0.5}).term(*ARRAYS)
    np.testing.assert_array_equal(half, jnp.full((1, 2, 3), -0.5))


def test_the_objective_says_the_rest():
    own, dapo = objective(term, objective="dapo"), objective("auto", objective="dapo")
    assert (own.reduction, own.scale, own.beta) == (dapo.reduction, dapo.scale, dapo.beta)
    assert resolved(own) == resolved(dapo)


def test_a_run_names_it_the_same_each_time():
    assert "term=python:" not in str(objective("auto")) and " at 0x" not in str(objective(term))
    assert "term with {'cap': 0.5}" in str(objective(term, {"cap": 0.5}))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda *a: a[0].mean(), "returned float32[]"),
        (lambda *a: a[0][..., 0], "returned float32[1, 2]"),
        (lambda *a: a[3], "returned bool[1, 2, 3]"),
        (lambda *a: None, "returned NoneType"),
        (lambda *a: 1.0, "returned float"),
    ],
)
def test_what_is_no_loss_of_every_token_is_refused(function, said):
    with pytest.raises(PluginError) as error:
        objective(function).term(*ARRAYS)
    assert f"{said}: it needs a loss for every token, [B, G, T] = [1, 2, 3]" in str(error.value)


def test_what_raises_while_it_is_traced_names_the_line():
    with pytest.raises(PluginError, match=r"raised TypeError: .* \(test_user_term\.py, line"):
        objective(lambda a, b, c, d: a @ "b").term(*ARRAYS)
