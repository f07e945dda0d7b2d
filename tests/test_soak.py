"""`benchmarks/soak.py`: what grows is told from what does not, and a run is watched and goes on."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

from tests.tiny import flags, write_sevens, write_student


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.setattr(
        sys, "path", [str(pathlib.Path(__file__).parents[1] / "benchmarks"), *sys.path]
    )
    return importlib.import_module("soak")


def points(slope, noise=1.0, height=500.0, starts=(0,), steps=1000):
    """A value of every fifth step of each process, which takes a while to settle."""
    rng, found = np.random.default_rng(0), []
    for number, start in enumerate(starts):
        for step in range(start, steps, 5):
            settling = -200.0 * np.exp(-(step - start) / 20)
            value = height + 30 * number + slope * step + settling + rng.normal(0, noise)
            found.append((step, value, number))
    return found


@pytest.mark.parametrize("starts", [(0,), (0, 400)], ids=["once", "resumed"])
def test_what_grows_is_told_from_what_does_not(soak, starts):
    flat, grows = (soak.fitted(points(slope, starts=starts), 1000) for slope in (0.0, 0.05))
    assert flat.is_flat and flat.low < 0 < flat.high
    assert not grows.is_flat and grows.low < 0.05 < grows.high
    assert grows.told("MiB").endswith("GROWS") and "+50 per 1,000 steps" in grows.told("MiB")


def test_the_slope_is_that_of_a_least_squares_fit(soak):
    found = points(0.05)
    own = np.array([(step, value) for step, value, _ in found if step >= 0.25 * found[-1][0]])
    blocks = np.array([block.mean(0) for block in np.array_split(own, soak.BLOCKS)])
    (slope, _), covariance = np.polyfit(*blocks.T, 1, cov=True)
    growth = soak.fitted(found, 1000)
    assert growth.slope == pytest.approx(slope)
    error = np.sqrt(covariance[0, 0])
    assert growth.high - growth.slope == pytest.approx(2.0739 * error, rel=1e-3)  # t of 22


def test_growth_that_nobody_would_notice_is_flat(soak):
    assert soak.fitted(points(0.001, noise=0.01), 1000).is_flat  # 1 MiB of 500
    assert not soak.fitted(points(0.02, noise=0.01), 1000).is_flat


def test_too_few_looks_say_nothing(soak):
    growth = soak.fitted([(1, 5.0, 0), (2, 6.0, 0)], 2)
    assert growth.is_flat and growth.high == np.inf


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc").is_dir(), reason="it reads /proc")
def test_a_run_is_watched_and_goes_on(soak, tmp_path, capsys):
    student, data = write_student(tmp_path / "student"), write_sevens(tmp_path / "sevens.jsonl")
    own = flags(student, data, tmp_path, "run", "--stage=sft", "--model.init=pretrained")
    own = [flag for flag in own if not flag.startswith(("--output", "--name"))]
    argv = [str(tmp_path / "out"), *own, "--every=0.01", "--eval.samples=0"]
    assert soak.main([*argv, "--steps=30"]) in (0, 1)
    assert soak.main([*argv, "--steps=60"]) in (0, 1)  # 30 more
    shown = capsys.readouterr().out
    assert "memory: " in shown and "60 steps; the figure is" in shown
    rows = soak.samples(tmp_path / "out")
    assert {row["process"] for row in rows} == {0, 1}
    assert all(row["memory"] > 0 and row["threads"] for row in rows)  # some before its imports
    assert max(row["memory"] for row in rows) > 50 and max(row["descriptors"] for row in rows) > 2
    found = soak.read(tmp_path / "out")
    assert [step for step, *_ in found["step_s"]] == list(range(1, 61))
    assert {process for *_, process in found["step_s"]} == {0, 1}
    assert (tmp_path / "out" / "soak.svg").stat().st_size > 1000
    assert soak.main([str(tmp_path / "out"), "--read"]) in (0, 1)
    assert soak.main([str(tmp_path / "nothing"), "--read"]) == 2
