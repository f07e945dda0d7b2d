"""Curves as inline SVG, drawn by matplotlib, coloured by the page."""

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cotjax.errors import visible
from cotjax.report.run_folder import RunFiles, Series, is_number


@dataclass(frozen=True)
class Chart:
    """A metric of metrics.jsonl, its title and unit, and how to print a value."""

    metric: str
    title: str
    unit: str
    form: str


CHARTS = (
    Chart("loss", "Loss", "nats/token", "{:.3f}"),
    Chart("solve_loss", "Loss of held-out solutions", "nats/token", "{:.3f}"),
    Chart("divergence", "Distance from the teachers", "nats/token", "{:.3f}"),
    Chart("accuracy", "Accuracy", "", "{:.1%}"),
    Chart("sampled_accuracy", "Accuracy, sampled", "", "{:.1%}"),
    Chart("reward", "Reward", "", "{:.2f}"),
    Chart("completion_tokens", "Completion length", "tokens", "{:.0f}"),
    Chart("tokens", "Greedy length", "tokens", "{:.0f}"),
    Chart("kl", "KL to reference", "nats/token", "{:.4f}"),
    Chart("masked_share", "Masked share of the steps", "", "{:.0%}"),
    Chart("entropy", "Entropy", "nats/token", "{:.2f}"),
    Chart("no_signal", "Groups without signal", "", "{:.0%}"),
    Chart("rollout_tok_s", "Rollout speed", "tokens/s", "{:,.0f}"),
    Chart("update_tok_s", "Update speed", "tokens/s", "{:,.0f}"),
    Chart("step_s", "Step time", "s", "{:.2f}"),
)
MORE = (
    Chart("drift", "Drift from the first answers", "nats/token", "{:.3f}"),
    Chart("repeated", "Completions that repeat another", "", "{:.0%}"),
    Chart("truncated", "Cut off at the limit", "", "{:.1%}"),
    Chart("well_formed", "Well-formed", "", "{:.1%}"),
    Chart("grad_norm", "Gradient norm", "", "{:.2f}"),
    Chart("clip_fraction", "Clipped tokens", "", "{:.2%}"),
    Chart("rollout_s", "Rollout time", "s", "{:.2f}"),
    Chart("update_s", "Update time", "s", "{:.2f}"),
    Chart("sampler_gap", "Sampler from trainer", "nats/token", "{:.1e}"),
    Chart("nonfinite", "Completions that met a NaN", "", "{:.0f}"),
    Chart("skipped", "Updates skipped for a NaN", "", "{:.0%}"),
    Chart("data_wait", "Wait for data, share of a step", "", "{:.2%}"),
    Chart("data_wait_s", "Wait for data", "s", "{:.3f}"),
)
_WEIGHT = re.compile(r"teacher_\d+")  # the share of one teacher, weak to strong
HELD_OUT_ONLY = {"tokens"}  # while training, `tokens` is the size of a batch


def curves(run: RunFiles) -> str:
    """HTML of one figure per metric; what is not in `CHARTS` is folded away."""
    known = {chart.metric for chart in CHARTS + MORE}
    lines = [line for line in run.metrics if line["kind"] == "train"]
    names = {name for line in lines for name, value in line.items() if is_number(value)}
    weights = sorted(filter(_WEIGHT.fullmatch, names), key=lambda name: int(name[8:]))
    others = sorted(names - known - {"step", "kind", *weights})
    figures = "".join(_figure(run, chart) for chart in CHARTS) + _weights(run, weights)
    more = "".join(
        _figure(run, chart)
        for chart in [*MORE, *(Chart(name, name, "", "{:.3g}") for name in others)]
    )
    if not figures and not more:
        return ""
    folded = f"<details><summary>More curves</summary>{_grid(more)}</details>" if more else ""
    return (
        '<h2>Curves</h2><p class="quiet keys"><span><i class="raw"></i>each step</span> '
        f"<span><i></i>mean of about {_width(run.last_step()):.0f} steps, rare outliers left out"
        '</span> <span><i class="dot"></i>held-out problems, with 95% interval</span></p>'
        f"{_grid(figures)}{folded}"
    )


def _grid(figures: str) -> str:
    return f'<div class="charts">{figures}</div>'


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Mean of each value's neighbourhood, weighted by a bell that is `width` wide at half height.

    It does not lag, and at the ends it takes what there is.

    Example:
      >>> [round(mean, 6) for mean in smooth([2.0, 2.0, 2.0], 5.0)]
      [2.0, 2.0, 2.0]
    """
    radius = math.ceil(1.5 * width)
    offsets = np.arange(-radius, radius + 1)
    bell = np.exp(-4 * math.log(2) * (offsets / width) ** 2)
    inside = slice(radius, radius + len(values))
    weight = np.convolve(np.ones(len(values)), bell)[inside]
    return (np.convolve(values, bell)[inside] / weight).tolist()


def without_outliers(series: Series) -> Series:
    """Leaves out far outliers (Tukey's, beyond 3 quartile ranges) if at most 1 in 50 is one.

    The step that compiles takes ten times the others'; with it the others would be one flat line.
    """
    values = np.array(series[1])
    if not len(values):
        return series
    lower, upper = np.quantile(values, (0.25, 0.75))
    reach = 3 * (upper - lower)
    usual = (lower - reach <= values) & (values <= upper + reach)
    if (~usual).sum() > math.ceil(len(values) / 50):
        return series
    return [int(step) for step in np.array(series[0])[usual]], values[usual].tolist()


def _width(steps: int) -> float:
    return max(5.0, steps / 12)


def _figure(run: RunFiles, chart: Chart) -> str:
    train, held_out = run.series(chart.metric, "train"), run.series(chart.metric, "eval")
    if chart.metric in HELD_OUT_ONLY:
        train = [], []
    if not train[0] and not held_out[0]:
        return ""
    usual = without_outliers(train)
    means = smooth(usual[1], _width(len(usual[1]))) if usual[1] else []
    shown = means if means else held_out[1]
    ends = " → ".join(chart.form.format(shown[end]) for end in (0, -1)).replace("-", "−")
    intervals = _intervals(run, chart)

    def draw(axes: Axes) -> None:
        axes.plot(*train, color=_ACCENT, linewidth=0.7, alpha=0.35)
        axes.plot(usual[0], means, color=_ACCENT, linewidth=1.6)
        axes.plot(*held_out, color=_MARK, linewidth=0.8, marker="o", markersize=3.5)
        axes.vlines(*intervals, color=_MARK, linewidth=1.2, alpha=0.6)
        axes.set_xlim(0, 1.02 * max([*train[0], *held_out[0], 1]))
        axes.set_ylim(*_limits(usual[1] + means + held_out[1] + intervals[1] + intervals[2]))
        _calm(axes, percent="%" in chart.form)

    return _framed(chart.title, chart.unit, ends, draw)


def _framed(title: str, unit: str, ends: str, draw: Callable[[Axes], None]) -> str:
    return (
        f"<figure><figcaption>{html.escape(visible(title))} "
        f'<span class="unit">{unit}</span><span class="ends">{html.escape(visible(ends))}</span>'
        f"</figcaption>{_svg(title, draw)}</figure>"
    )


def _weights(run: RunFiles, metrics: Sequence[str]) -> str:
    """The teachers' weights one above the other, the strongest darkest and on top."""
    lines = run.lines("train", *metrics)
    if not metrics or not lines:
        return ""
    steps, height = [line["step"] for line in lines], np.zeros(len(lines))
    paths = run.setting("teachers", "paths", list) or metrics
    names = [Path(str(name)).name for name in paths]
    ends = " → ".join(dict.fromkeys((names[0], names[-1])))

    def draw(axes: Axes) -> None:
        bottom = height
        for k, metric in enumerate(metrics):
            top = bottom + np.array([line[metric] for line in lines])
            shade = (k + 1) / len(metrics)
            axes.fill_between(steps, bottom, top, color=_ACCENT, alpha=0.75 * shade, linewidth=0)
            bottom = top
        axes.set_xlim(0, 1.02 * max([*steps, 1]))
        axes.set_ylim(0, 1)
        _calm(axes, percent=True)

    return _framed("Teacher weights", "", ends, draw)


def _intervals(run: RunFiles, chart: Chart) -> tuple[list[int], list[float], list[float]]:
    """Steps, lower and upper ends of the held-out values."""
    low, high = f"{chart.metric}_low", f"{chart.metric}_high"
    lines = run.lines("eval", low, high)
    return [one["step"] for one in lines], [one[low] for one in lines], [one[high] for one in lines]


# Colours that matplotlib writes and the page's variables replace, so that a curve follows the
# reader's light or dark theme.
_ACCENT, _MARK, _MUTED, _LINE = "#0000f1", "#0000f2", "#0000f3", "#0000f4"
_VARIABLES = {_ACCENT: "accent", _MARK: "mark", _MUTED: "muted", _LINE: "line"}
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "cotjax", "font.size": 8}


def _svg(title: str, draw: Callable[[Axes], None]) -> str:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.7, 1.9))
        draw(figure.add_axes((0.13, 0.17, 0.84, 0.77)))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # several figures share one page
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    label = html.escape(visible(f"{title} by step"))
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _calm(axes: Axes, *, percent: bool) -> None:
    """Few ticks, a faint grid, no frame."""

    def tick(value: float, _: int) -> str:
        if percent:
            return f"{100 * value:.10g}%"
        return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:,.10g}"

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))
    axes.set_xlabel("step", loc="right", color=_MUTED, labelpad=1)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=_MUTED, pad=4)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=_LINE)


def _limits(values: list[float]) -> tuple[float, float]:
    """The y range with a margin, which does not cross 0 for values that do not."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 1e-3 * abs(high), 1e-6)
    return (max(low - margin, 0.0) if low >= 0 else low - margin), high + margin
