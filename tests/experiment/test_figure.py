"""The figure: written, of every arm, and a sentence where matplotlib is not there."""

import dataclasses
import importlib

import pytest

from cotjax.errors import InputError
from cotjax.experiment.figure import _curve, draw
from cotjax.experiment.plan import read_experiment


def test_every_arm_is_drawn(write, row, tmp_path):
    rows = [row("base"), row("sft", 0), row("sft", 1), row("list", 0, curve=(0.1, 0.9))]
    draw(read_experiment(write()), rows, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.count("<!-- list -->") == 1 and text.count("<!-- sft -->") == 1
    assert text.count("<!-- base -->") == 1


def test_without_matplotlib_it_says_what_to_install(write, row, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    experiment = read_experiment(write())
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'cotjax\[plot\]'"):
        draw(experiment, [row("sft")], tmp_path / "a.png")


def test_the_thick_line_is_the_mean_of_all_seeds_however_often_each_was_evaluated(row):
    drawn = []

    class Axes:
        def plot(self, x, y, **style):
            drawn.append(([*map(float, x)], [*map(float, y)], style["linewidth"]))

    def at(*points):
        return [(share, {"accuracy": accuracy}) for share, accuracy in points]

    often = dataclasses.replace(row("a", 0), curve=at((0, 0.0), (0.5, 0.5), (1, 1.0)))
    seldom = dataclasses.replace(row("a", 1), curve=at((0, 0.0), (1, 0.0)))
    _curve(Axes(), [often, seldom], "red", "a")
    assert drawn[-1] == ([0.0, 0.5, 1.0], [0.0, 25.0, 50.0], 2)


def test_a_picture_that_cannot_be_written_is_named(write, row, tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match=r"a\.png: cannot be written .*--no-figure"):
        draw(read_experiment(write()), [row("sft")], tmp_path / "a.png")
