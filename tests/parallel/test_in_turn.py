"""Gathering in turn changes no bit, and each gather needs the one before."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.parallel import in_turn as module
from cotjax.parallel.in_turn import in_turn
from cotjax.parallel.mesh import make_mesh


@pytest.fixture
def places(monkeypatch):
    monkeypatch.setattr(module, "SMALL", 64)
    mesh = make_mesh(1, 8, 1)
    return NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())


def test_every_bit_stays(places):
    split, whole = places
    rng = np.random.default_rng(0)
    patterns = [
        rng.integers(0, 2**16, (64, 3), np.uint16).view(jnp.bfloat16),  # NaN of all kinds
        rng.integers(0, 2**32, (16, 2, 5), np.uint32).view(np.float32),
        rng.integers(-128, 127, (64,), np.int8),
        np.full((8,), np.nan, np.float32),  # small
        np.zeros((40,), np.float32) * -1,
    ]
    leaves = [jax.device_put(one, split) for one in patterns]
    moved = jax.jit(lambda leaves: in_turn(leaves, [whole] * 5))(leaves)
    for one, pattern in zip(moved, patterns, strict=True):
        assert one.sharding.is_equivalent_to(whole, one.ndim) or one.nbytes < 64
        assert np.asarray(one).tobytes() == pattern.tobytes()


def test_each_needs_the_one_before_and_small_ones_none(places):
    split, whole = places
    leaves = [jnp.ones((size,)) for size in (64, 8, 64, 64)]
    text = jax.jit(lambda leaves: in_turn(leaves, [whole] * 4)).lower(leaves).as_text()
    assert len(re.findall(r"stablehlo\.popcnt", text)) == 3  # the first waits for itself
