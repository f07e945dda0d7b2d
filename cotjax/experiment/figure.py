"""The figure of an experiment: accuracy against tokens, and how each arm got there."""

import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cotjax.errors import InputError
from cotjax.experiment.cells import BASE, Experiment
from cotjax.experiment.results import ArmResult
from cotjax.experiment.table import by_arm
from cotjax.report.statistics import t_interval

GREY = "#8a8f98"


def draw(experiment: Experiment, rows: Sequence[ArmResult], path: pathlib.Path) -> None:
    """Draws and saves.

    Args:
      experiment: whose arms these are.
      rows: of its results.jsonl.
      path: of the picture; its ending says how.

    Raises:
      InputError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
        tab: Any = importlib.import_module("matplotlib").colormaps["tab10"].colors
    except ModuleNotFoundError as error:
        raise InputError(
            "the figure needs matplotlib. Run: pip install 'cotjax[plot]', or leave it out with "
            "--no-figure."
        ) from error
    colors = [color for color in tab if len({*color}) > 1]  # grey is the base's
    figure = figures.Figure(figsize=(12, 4.6), layout="constrained")
    reached, curves = figure.subplots(1, 2, sharey=True)
    for number, (arm, found) in enumerate(by_arm(rows).items()):
        color = GREY if arm == BASE else colors[(number - 1) % len(colors)]
        x, y = _interval(found, "tokens", 1), _interval(found, "accuracy", 100)
        reached.errorbar(
            x[0], y[0], xerr=x[1], yerr=y[1], fmt="o", color=color, capsize=2, label=arm
        )
        if arm != BASE:
            _curve(curves, found, color, arm)
    reached.set(xlabel="tokens of an answer", ylabel="held-out accuracy, greedy, %", ylim=(0, 100))
    reached.set_xlim(left=0)
    unit = f"{experiment.budget:,} {experiment.unit}"
    curves.set(xlabel=f"share of the budget of {unit}")
    figure.legend(*reached.get_legend_handles_labels(), loc="outside right center", frameon=False)
    for axes in (reached, curves):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Name results in a folder that can, or "
            "leave the figure out with --no-figure."
        ) from error


def _interval(rows: Sequence[ArmResult], name: str, scale: float) -> tuple[float, float]:
    """(mean, half of the 95 % interval over seeds)."""
    found = t_interval([scale * row.numbers[name] for row in rows])
    return found.mean, 0.0 if np.isnan(found.low) else found.high - found.mean


def _curve(axes: Any, rows: Sequence[ArmResult], color: Any, arm: str) -> None:
    """Each seed thin; their mean thick: of all of them, however often each was evaluated."""
    for row in rows:
        shares = [share for share, _ in row.curve]
        axes.plot(shares, _accuracy(row), color=color, alpha=0.25, linewidth=1)
    own = [[share for share, _ in row.curve] for row in rows]
    if len({*map(len, own)}) == 1:  # measured at the same quarters, but for a batch
        shares, mean = np.mean(own, axis=0), np.mean([_accuracy(row) for row in rows], axis=0)
    else:
        shares = np.unique(np.concatenate(own))
        heights = [np.interp(shares, x, _accuracy(row)) for x, row in zip(own, rows, strict=True)]
        mean = np.mean(heights, axis=0)
    axes.plot(shares, mean, color=color, linewidth=2, marker="o", markersize=3, label=arm)


def _accuracy(row: ArmResult) -> list[float]:
    return [100 * numbers["accuracy"] for _, numbers in row.curve]
