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
    spent = iter([3.0, 5.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: next(spent))
    profile = StartProfile(10.0)
    profile.mark("imports")
    profile.mark("weights")
    profile.end()
    profile.mark("too late")
    assert [(part.name, part.seconds, part.cpu) for part in profile.parts] == [
        ("imports", 2.0, 3.0),
        ("weights", 3.5, 2.0),
    ]
    head, *lines = profile.table().splitlines()
    assert head.split()[-6:] == ["seconds", "cpu", "traced", "lowered", "compiled", "read"]
    assert [line.split()[-2:] for line in lines] == [
        ["2.00", "3.00"], ["3.50", "2.00"], ["5.50", "5.00"],
    ]  # fmt: skip


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
    assert not before.programs
    assert set(program.programs) - {"read"} == {"traced", "lowered", "compiled"}
    assert 0 < program.programs["compiled"] <= program.seconds
    assert len(profile.table().splitlines()[2].split()) in (6, 7)


def test_what_was_read_from_the_cache_was_not_compiled():
    profile = StartProfile()
    profile._on_duration("/jax/compilation_cache/cache_retrieval_time_sec", 0.25)
    profile._on_duration("/jax/core/compile/backend_compile_duration", 0.5)
    profile._on_duration("/jax/of/something/else", 7.0)
    profile.mark("program")
    (part,) = profile.parts
    assert part.did("compiled") == part.did("read") == 0.25 and not part.did("traced")


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
