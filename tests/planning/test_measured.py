"""This CPU as a chip."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.planning import measured as module
from cotjax.planning.measured import measured


def test_devices_share_what_there_is(monkeypatch):
    monkeypatch.setattr(module, "_WIDTH", 64)
    monkeypatch.setattr(module, "_LENGTH", 2**12)
    monkeypatch.setattr(module, "_seconds", lambda function, argument: 0.001)
    one, eight = measured.__wrapped__(1), measured.__wrapped__(8)
    assert one.flops == pytest.approx(2 * 64**3 / 0.001)
    assert one.hbm_rate == pytest.approx(8 * 2 * 2**12 * 4 / 0.001)
    assert eight.flops == one.flops / 8 and eight.hbm_rate == one.hbm_rate / 8
    assert eight.hbm < one.hbm and eight.platform == "cpu"
    assert not one.overlaps  # products and what stands between them take turns


def test_each_turn_passes_over_all_numbers():
    given = np.linspace(-2, 2, 64, dtype=np.float32)
    expected = given
    for _ in range(8):
        expected = expected / (1 + np.exp(-expected))
    np.testing.assert_allclose(module._pass_over(jnp.array(given)), expected, rtol=1e-5)


def test_a_call_takes_time_and_gets_what_the_last_one_gave():
    seen = []

    def double(x):
        seen.append(float(x[0]))
        return 2 * x

    assert module._seconds(double, jnp.ones(3), repeats=3) > 0
    assert seen == [1, 2, 4, 8]
