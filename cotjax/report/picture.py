"""One picture of runs side by side: accuracy against length, and the curves behind it."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cotjax.report.charts import smooth, without_outliers

_GREY, _LINE = "#666666", "#dddddd"
_LEARNED = (("reward", "Reward"), ("loss", "Loss, nats per token"))  # what the middle shows


@dataclasses.dataclass(frozen=True)
class RunDrawing:
    """One run in the picture.

    Attributes:
      label: in the legend.
      points: its evaluations in order: before, then after each stage.
      metrics: its training steps, as `cotjax.run.Metrics`.
      evaluations: the same of its evaluations.
    """

    label: str
    points: Sequence[dict[str, Any]]
    metrics: Any
    evaluations: Any


class Picture(Figure):
    """A figure that a notebook shows even where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=100)
        return out.getvalue()


def draw(runs: Sequence[RunDrawing]) -> Figure:
    """Three panels: accuracy against length, what training raised or lowered, and length by step.

    Args:
      runs: at least one; each has a colour.
    """
    figure = Picture(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    metric, title = _learned(runs)
    colors = [colormaps["tab10"](number % 10) for number in range(len(runs))]
    for run, color in zip(runs, colors, strict=True):
        _arrows(left, run, color)
        _curve(middle, run, color, metric)
        _lengths(right, run, color)
    _label(
        left,
        "Accuracy against length, ○ before ● after",
        "mean length of an answer, tokens",
        percent=True,
    )
    _label(middle, title, "step")
    _label(right, "Length, tokens, ● on held-out problems", "step")
    if len(runs) > 1:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center",
                      ncols=min(len(runs), 4), frameon=False)  # fmt: skip
    return figure


def _learned(runs: Sequence[RunDrawing]) -> tuple[str, str]:
    """The first metric that any run has, and its title; the last one if none has."""
    for name, title in _LEARNED:
        if any(name in run.metrics for run in runs):
            return name, title
    return _LEARNED[-1]


def _arrows(axes: Axes, run: RunDrawing, color: Any) -> None:
    """From before (hollow) to after (full), with the 95% intervals of the accuracy."""
    if not run.points:
        return
    tokens = np.array([point["tokens"] for point in run.points])
    accuracy = np.array([point["accuracy"] for point in run.points])
    ends = [[point[f"accuracy_{end}"] for point in run.points] for end in ("low", "high")]
    reach = np.abs(np.array(ends) - accuracy)
    axes.errorbar(tokens, accuracy, reach, fmt="none", color=color, alpha=0.35, linewidth=1)
    style = {"color": color, "markersize": 6, "linestyle": "none", "marker": "o"}
    axes.plot(tokens[:1], accuracy[:1], fillstyle="none", **style)
    axes.plot(tokens[1:], accuracy[1:], label=run.label, **style)
    for start in range(len(tokens) - 1):
        axes.annotate(
            "",
            xy=(tokens[start + 1], accuracy[start + 1]),
            xytext=(tokens[start], accuracy[start]),
            arrowprops={"arrowstyle": "->", "color": color, "shrinkA": 5, "shrinkB": 5},
        )


def _curve(axes: Axes, run: RunDrawing, color: Any, metric: str) -> None:
    """Each step faintly, and their running mean."""
    if metric not in run.metrics:
        return
    steps, values = run.metrics.steps, run.metrics[metric]
    there = np.isfinite(values)
    series = steps[there].tolist(), values[there].tolist()
    axes.plot(*series, color=color, linewidth=0.7, alpha=0.3)
    usual = without_outliers(series)
    if usual[0]:
        mean = smooth(usual[1], max(5.0, len(usual[1]) / 12))
        axes.plot(usual[0], mean, color=color, linewidth=1.7)


def _lengths(axes: Axes, run: RunDrawing, color: Any) -> None:
    """Of sampled completions while training, and of greedy answers to held-out problems."""
    _curve(axes, run, color, "completion_tokens")
    if "tokens" in run.evaluations:
        steps, tokens = run.evaluations.steps, run.evaluations["tokens"]
        axes.plot(steps, tokens, color=color, marker="o", markersize=4, linewidth=0.9)


def _label(axes: Axes, title: str, below: str, *, percent: bool = False) -> None:
    """A title and few ticks, a faint grid, no frame."""
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel(below, color=_GREY, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=not percent))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_GREY, labelsize=8)
    axes.spines[:].set_visible(False)
