"""This CPU as a chip."""

import pytest

from cotjax.planning import measured as module
from cotjax.planning.measured import measured


def test_devices_share_what_there_is(monkeypatch):
    monkeypatch.setattr(module, "_WIDTH", 64)
    monkeypatch.setattr(module, "_LENGTH", 2**12)
    monkeypatch.setattr(module, "_seconds", lambda function, argument: 0.001)
    one, eight = measured.__wrapped__(1), measured.__wrapped__(8)
    assert one.flops == pytest.approx(2 * 64**3 / 0.001)
    assert one.hbm_rate == pytest.approx(2 * 2**12 * 4 / 0.001)
    assert eight.flops == one.flops / 8 and eight.hbm_rate == one.hbm_rate / 8
    assert eight.hbm < one.hbm and eight.platform == "cpu"


def test_a_call_takes_time():
    assert module._seconds(lambda x: x, module.jnp.ones(3), repeats=1) > 0
