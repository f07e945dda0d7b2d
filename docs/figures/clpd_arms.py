"""Draws the curves and the teachers' weights of the arms with teachers of three sizes.

    python docs/figures/clpd_arms.py

Reads docs/results/clpd_arms.jsonl, writes clpd_arms.png and clpd_weights.png beside it.
"""

import json
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

RESULTS = pathlib.Path(__file__).parents[1] / "results"
TEACHERS = ("small", "medium", "large")
EVERY = 5  # steps between two weights of a row


def draw_curves(runs: list[dict[str, Any]]) -> Figure:
    """Held-out accuracy, a panel for each divergence; a band is the range of the seeds."""
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    divergences = list(dict.fromkeys(run["divergence"] for run in runs))
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    panels = figure.subplots(1, len(divergences), sharey=True)
    for panel, divergence in zip(panels, divergences, strict=True):
        for place, arm in enumerate(arms):
            curves = [run["curve"] for run in runs
                      if (run["arm"], run["divergence"]) == (arm, divergence)]  # fmt: skip
            if not curves:
                continue
            steps = [step for step, _ in curves[0]]
            values = 100 * np.array([[share for _, share in curve] for curve in curves])
            panel.plot(steps, values.mean(axis=0), color=f"C{place}", label=arm)
            low, high = values.min(axis=0), values.max(axis=0)
            panel.fill_between(steps, low, high, color=f"C{place}", alpha=0.12, linewidth=0)
        panel.set(title=divergence, xlabel="step", ylim=(0, 100))
        _plain(panel)
    panels[0].set_ylabel("held-out accuracy, greedy, %")
    shown = panels[0].get_legend_handles_labels()  # the first has every arm
    figure.legend(*shown, loc="outside lower center", ncols=5, frameon=False)
    return figure


def draw_weights(runs: list[dict[str, Any]]) -> Figure:
    """The teachers' weights over a run, a panel for each arm; the first run that there is."""
    first = {run["arm"]: run for run in reversed(runs)}
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = figure.subplots(2, -(-len(arms) // 2), sharex=True, sharey=True).ravel()
    for panel, arm in zip(panels, arms, strict=False):
        columns = np.array(first[arm]["weights"]).T
        names = TEACHERS if len(columns) == len(TEACHERS) else TEACHERS[-1:]
        names = names[::-1] if arm.endswith("strong to weak") else names
        for name, weights in zip(names, columns, strict=True):
            steps = range(1, EVERY * len(weights), EVERY)
            panel.plot(steps, weights, color=f"C{TEACHERS.index(name)}", label=name)
        panel.set_title(f"{arm}, seed {first[arm]['seed']}", fontsize=10)
        _plain(panel)
    for panel in panels[len(arms) :]:
        panel.set_axis_off()
    figure.supxlabel("step")
    figure.supylabel("weight of a teacher")
    shown = panels[arms.index("both")].get_legend_handles_labels()
    figure.legend(*shown, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _plain(panel: Any) -> None:
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    text = (RESULTS / "clpd_arms.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    draw_curves(rows).savefig(RESULTS / "clpd_arms.png", dpi=110)
    draw_weights(rows).savefig(RESULTS / "clpd_weights.png", dpi=110)
