"""Curves as data for the page's charts, which Vega-Lite draws in the browser.

The library comes with this package (assets/report/vega.js), for the page loads nothing: bundling it
anew takes half a minute, so it is done once. Its colours are the page's CSS variables, so a chart
follows the reader's light or dark theme, and prints.
"""

import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cotjax.errors import visible
from cotjax.report.completions import NOT_SUMMED, part_means, sides_of
from cotjax.report.run_folder import RunFiles, Series, is_number

POINTS = 400  # of all the runs' curves in one chart; more steps are joined to means
MOST_CHARTS = 60


@dataclass(frozen=True)
class Chart:
    """A metric of metrics.jsonl, its title and unit, and how to print a value."""

    metric: str
    title: str
    unit: str
    form: str

    def told(self, value: float) -> str:
        """A value in this form; one that it would print as zero, with two digits."""
        text = self.form.format(value)
        if value and not re.search("[1-9]", text):
            text = f"{value:.1e}".replace("e-0", "e-")
        return text.replace("-", "−")


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
    Chart("bucket", "Curriculum bucket", "", "{:.0f}"),
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
STEPPED = {"bucket"}  # goes from one value to the next, with nothing between them
HELD_OUT_ONLY = {"tokens"}  # while training, `tokens` is the size of a batch


@dataclass(frozen=True)
class Figure:
    """A chart of the page.

    Attributes:
      title: above it.
      unit: behind the title; may be empty.
      ends: first and last value in words.
      says: the chart in a sentence, for whoever does not see it.
      data: what report/charts.js draws.
    """

    title: str
    unit: str
    ends: str
    says: str
    data: dict[str, Any]

    def html(self, number: int) -> str:
        """Its element, which names the data by their number."""
        title, unit = html.escape(visible(self.title)), html.escape(self.unit)
        ends, says = html.escape(visible(self.ends)), html.escape(visible(self.says))
        return (
            f'<figure><figcaption>{title} <span class="unit">{unit}</span>'
            f'<span class="ends">{ends}</span></figcaption>'
            f'<div class="chart" role="img" aria-label="{says}" data-chart="{number}"></div>'
            "</figure>"
        )


def figures(runs: Sequence[RunFiles]) -> tuple[list[Figure], list[Figure]]:
    """(charts of well-known metrics, the others), each of all runs."""
    known = {chart.metric for chart in CHARTS + MORE}
    names = {
        name
        for run in runs
        for line in run.metrics
        if line["kind"] == "train"
        for name, value in line.items()
        if is_number(value) and len(name) <= 200
    }
    weights = sorted(filter(_WEIGHT.fullmatch, names), key=lambda name: int(name[8:]))
    others = sorted(names - known - {"step", "kind", *weights})[:MOST_CHARTS]
    first = [*_all(runs, CHARTS), *_weights(runs, weights), *_reward_parts(runs)]
    rest = [*MORE, *(Chart(name, name, "", "{:.3g}") for name in others)]
    return first, list(_all(runs, rest))


def _all(runs: Sequence[RunFiles], charts: Sequence[Chart]) -> Iterator[Figure]:
    return (found for chart in charts if (found := _curve(runs, chart)) is not None)


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


def width(steps: int) -> float:
    """Of the mean of a curve of so many steps."""
    return max(5.0, steps / 12)


def _curve(runs: Sequence[RunFiles], chart: Chart) -> Figure | None:
    """A metric by step: each step, its running mean, and held-out values with intervals."""
    found = [one for number, run in enumerate(runs) if (one := _series(run, number, chart, runs))]
    if not found:
        return None
    ends = found[0]["mean"] or found[0]["held"][1]
    spread = [value for one in found for value in (one["mean"] or one["held"][1])]
    form = chart.told
    shown = f"{form(ends[0])} → {form(ends[-1])}"
    many = f" of {len(found)} runs" if len(found) > 1 else ""
    says = (
        f"{chart.title}{many} by step: {shown.replace('→', 'to')}, lowest {form(min(spread))}, "
        f"highest {form(max(spread))}"
    )
    data = {
        "kind": "curve",
        "percent": "%" in chart.form,
        "limits": _limits([v for one in found for v in one.pop("shown")]),
        "series": found,
    }
    return Figure(chart.title, chart.unit, "" if len(runs) > 1 else shown, says, data)


def _series(
    run: RunFiles, number: int, chart: Chart, runs: Sequence[RunFiles]
) -> dict[str, Any] | None:
    """One run's part of a curve; None if it has none."""
    train, held = run.series(chart.metric, "train"), run.series(chart.metric, "eval")
    if chart.metric in HELD_OUT_ONLY:
        train = [], []
    if not train[0] and not held[0]:
        return None
    raw = joined(train, max(POINTS // len(runs), 60))
    usual = without_outliers(raw)
    smoothed = usual[1] and chart.metric not in STEPPED
    means = smooth(usual[1], width(len(usual[1]))) if smoothed else usual[1]
    intervals = _intervals(run, chart.metric, held[0])
    shown = [*usual[1], *means, *held[1], *(end for ends in intervals for end in ends)]
    return {
        "run": number,
        "steps": raw[0],
        "raw": _short(raw[1]),
        "meanSteps": usual[0],
        "mean": _short(means),
        "held": [held[0], _short(held[1]), [_short(ends) for ends in intervals]],
        "shown": shown,
    }


def joined(series: Series, most: int) -> Series:
    """At most so many points: neighbours become their mean, at the last one's step.

    Example:
      >>> joined(([1, 2, 3, 4], [0.0, 1.0, 2.0, 4.0]), 2)
      ([2, 4], [0.5, 3.0])
    """
    steps, values = series
    size = -(-len(steps) // most)
    if size <= 1:
        return steps, values
    parts = [slice(first, first + size) for first in range(0, len(steps), size)]
    return [steps[one][-1] for one in parts], [float(np.mean(values[one])) for one in parts]


def _intervals(run: RunFiles, metric: str, steps: Sequence[int]) -> list[list[float]]:
    """Lower and upper end at each held-out step; an empty list where there is none."""
    low, high = f"{metric}_low", f"{metric}_high"
    ends = {one["step"]: [one[low], one[high]] for one in run.lines("eval", low, high)}
    return [ends.get(step, []) for step in steps]


def _weights(runs: Sequence[RunFiles], metrics: Sequence[str]) -> Iterator[Figure]:
    """The teachers' weights, one above the other, by run."""
    for run in runs:
        lines = run.lines("train", *metrics)
        if not metrics or not lines:
            continue
        paths = run.setting("teachers", "paths", list) or metrics
        names = [visible(Path(str(name)).name)[:60] for name in paths][: len(metrics)]
        names += list(metrics[len(names) :])
        columns = [joined(([one["step"] for one in lines], [one[m] for one in lines]), POINTS // 2)
                   for m in metrics]  # fmt: skip
        ends = " → ".join(dict.fromkeys((names[0], names[-1])))
        final = zip(names, columns, strict=True)
        last = ", ".join(f"{name} {column[1][-1]:.0%}" for name, column in final)
        data = {
            "kind": "stack",
            "names": names,
            "steps": columns[0][0],
            "values": [_short(column[1]) for column in columns],
        }
        own = f", {run.name}" if len(runs) > 1 else ""
        yield Figure(f"Teacher weights{own}", "", ends, f"Teacher weights at the end: {last}", data)


def _reward_parts(runs: Sequence[RunFiles]) -> Iterator[Figure]:
    """The means of what rewards add up, over the answers of each evaluation."""
    for number, run in enumerate(runs):
        sides = sides_of([run])
        names = dict.fromkeys(
            name for side in sides for row in side.rows.values() for name in row.get("parts", {})
        )
        parts = [name for name in names if name not in NOT_SUMMED][:8]
        if len(sides) < 2 or not parts or run.stages:
            continue
        rows = [list(side.rows.values()) for side in sides]
        means = [part_means(one, parts) for one in rows]
        data = {
            "kind": "lines",
            "names": [visible(name)[:60] for name in parts],
            "steps": [one[0]["step"] for one in rows],
            "values": [
                [None if mean[k] is None else float(f"{mean[k]:.4g}") for mean in means]
                for k in range(len(parts))
            ],
        }
        says = ", ".join(
            f"{name} {means[0][k] or 0:+.2f} to {means[-1][k] or 0:+.2f}"
            for k, name in enumerate(parts)
        )
        own = f", {runs[number].name}" if len(runs) > 1 else ""
        yield Figure(f"Reward parts{own}", "held-out mean", "", f"Reward parts: {says}", data)


def accuracy_against_length(runs: Sequence[RunFiles]) -> Figure | None:
    """Each evaluation as a point with its interval, in the order in which they came."""
    series = [
        {"run": number, "points": points}
        for number, run in enumerate(runs)
        if len(points := [*_points(run)]) > 0
    ]
    if not any(len(one["points"]) > 1 for one in series) and len(series) < 2:
        return None
    told = "; ".join(
        f"{one['points'][0][2]:.1%} right in {one['points'][0][1]:.0f} tokens to "
        f"{one['points'][-1][2]:.1%} in {one['points'][-1][1]:.0f}"
        for one in series
    )
    data = {"kind": "path", "series": series}
    return Figure("Accuracy against length", "held-out problems", "", f"From {told}", data)


def _points(run: RunFiles) -> Iterator[list[Any]]:
    """Label, tokens, accuracy, low, high of each evaluation; of a list, of each stage."""
    stages = run.stage_rows()
    lines = [(stage["name"], stage) for stage in stages] or [
        (f"step {line['step']:,}", line) for line in run.lines("eval")
    ]
    needed = ("tokens", "accuracy")
    for label, line in lines:
        if all(is_number(line.get(name)) for name in needed):
            low, high = (line.get(f"accuracy_{end}") for end in ("low", "high"))
            ends = [low, high] if is_number(low) and is_number(high) else [None, None]
            yield [visible(label), *(line[name] for name in needed), *ends]


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _limits(values: list[float]) -> list[float]:
    """The y range with a margin, which does not cross 0 for values that do not."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 1e-3 * abs(high), 1e-6)
    return _short([max(low - margin, 0.0) if low >= 0 else low - margin, high + margin])
