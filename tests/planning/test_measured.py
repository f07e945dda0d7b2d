"""This CPU as a chip."""

import jax.numpy as jnp
import pytest

from cotjax.planning import measured as module
from cotjax.planning.measured import cache_of, measured

MIB = 2**20


def test_devices_share_what_there_is(monkeypatch):
    rates = dict.fromkeys(module._SIZES, 8e9) | {MIB: 40e9, 4 * MIB: 32e9}
    monkeypatch.setattr(module, "_WIDTH", 64)
    monkeypatch.setattr(module, "_seconds", lambda function, argument: 0.001)
    monkeypatch.setattr(module, "_rate", rates.get)
    one, eight = measured.__wrapped__(1), measured.__wrapped__(8)
    assert one.flops == pytest.approx(2 * 64**3 / 0.001)
    assert (one.hbm_rate, one.cache_rate, one.cache) == (8e9, 32e9, 2 * MIB)
    for name in ("flops", "hbm_rate", "cache_rate", "cache", "link"):
        assert getattr(eight, name) == getattr(one, name) / 8
    assert eight.hbm < one.hbm and eight.platform == "cpu"


def test_the_largest_array_that_is_fast():
    assert cache_of({1: 9.0, 4: 9.5, 16: 5.0, 64: 2.4, 256: 2.0}) == 16
    assert cache_of({1: 2.2, 4: 2.1, 16: 2.0}) == 0


def test_a_rate_is_of_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(module, "_MOVED", 2**14)

    def seconds(function, argument):
        # 16 KiB in passes over an array of 4 KiB: each adds one.
        assert argument.nbytes == 2**12 and float(function(argument)[0]) == 1 + 4
        return 0.5

    monkeypatch.setattr(module, "_seconds", seconds)
    assert module._rate(2**12) == 2 * 2**14 / 0.5


def test_a_call_takes_time():
    assert module._seconds(lambda x: x, jnp.ones(3), repeats=1) > 0


def test_a_chip_without_a_cache_that_counts_has_the_memory_s_rate(monkeypatch):
    monkeypatch.setattr(module, "_seconds", lambda function, argument: 0.001)
    monkeypatch.setattr(module, "_rate", lambda size: 8e9)
    found = measured.__wrapped__(1)
    assert found.cache == 0 and found.cache_rate == found.hbm_rate == 8e9
