"""A fingerprint follows the weights, and neither their number format nor their devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.fingerprint import SAMPLES, fingerprint
from cotjax.models.lora import Lora, attach, join_adapter
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import shard_params
from tests.tiny import make_policy


def test_it_is_that_of_the_values_in_every_format_and_on_every_mesh():
    _, params = make_policy()
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    known = fingerprint(params)
    assert len(known) == 16 and int(known, 16) >= 0
    assert fingerprint(narrow) == known
    assert fingerprint(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)) == known
    assert fingerprint(shard_params(make_mesh(2, 2, 2), params)) == known


@pytest.mark.parametrize("seed", [1, 2])
def test_other_weights_have_another(seed):
    assert fingerprint(make_policy(seed=seed)[1]) != fingerprint(make_policy()[1])


def test_every_parameter_counts():
    _, params = make_policy()
    leaves, definition = jax.tree.flatten(params)
    for place, leaf in enumerate(leaves):
        others = [*leaves[:place], leaf * 1.5 + 1, *leaves[place + 1 :]]
        assert fingerprint(jax.tree.unflatten(definition, others)) != fingerprint(params)


def test_a_large_parameter_is_looked_at_from_end_to_end():
    large = np.random.default_rng(0).standard_normal((4 * SAMPLES, 3)).astype(np.float32)
    whole = fingerprint({"a": large})
    for part in (slice(0, 200), slice(2 * SAMPLES, 2 * SAMPLES + 200), slice(-200, None)):
        other = large.copy()
        other[part] += 1
        assert fingerprint({"a": other}) != whole


def test_an_adapter_is_left_out():
    policy, params = make_policy()
    _, adapter = attach(policy, params, Lora(2, 4.0, 0.0, ("q_proj",)), jax.random.key(0))
    assert fingerprint(join_adapter(adapter, params)) == fingerprint(params)
