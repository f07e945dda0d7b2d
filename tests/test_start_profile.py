"""Where the time goes until the first step."""

import io
import time

import jax
import jax.numpy as jnp
import pytest

from cotjax import start_profile
from cotjax.start_profile import StartProfile, profiling, started


def test_parts_are_measured_in_order_until_the_last_one(monkeypatch):
    clock = iter([12.0, 15.5, 16.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    profile = StartProfile(10.0)
    profile.mark("imports")
    profile.mark("weights")
    profile.end()
    profile.mark("too late")
    assert [(part.name, part.seconds) for part in profile.parts] == [
        ("imports", 2.0),
        ("weights", 3.5),
    ]
    head, *lines = profile.table().splitlines()
    assert head.split()[-4:] == ["seconds", "traced", "lowered", "compiled"]
    assert [line.split()[-1] for line in lines] == ["2.00", "3.50", "5.50"]


def test_what_jax_does_with_programs_is_of_the_part_in_which_it_did_it():
    profile = StartProfile(time.monotonic())
    profile.listen()
    profile.listen()  # once is enough
    profile.mark("before")
    jax.jit(lambda x: x * 3 + 0.123)(jnp.ones(7)).block_until_ready()
    profile.mark("program")
    profile.end()
    jax.jit(lambda x: x * 3 + 0.456)(jnp.ones(7)).block_until_ready()
    before, program = profile.parts
    assert not before.programs and set(program.programs) == {"traced", "lowered", "compiled"}
    assert 0 < program.programs["compiled"] <= program.seconds
    assert len(profile.table().splitlines()[2].split()) == 5


def test_a_run_that_fails_shows_what_was_measured():
    out = io.StringIO()
    with pytest.raises(ValueError), profiling(out):
        started("imports", listen=True)
        raise ValueError("no weights")
    assert "imports" in out.getvalue() and "together" in out.getvalue()
    assert start_profile._profile is None


def test_where_nobody_profiles_nothing_is_kept():
    started("anything", last=True)
    assert start_profile._profile is None
