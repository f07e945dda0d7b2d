"""Draws the real student's two runs, and prints the paired numbers of the second.

    python docs/figures/real_student.py

Reads docs/results/real_student: grpo_metrics.jsonl (BRIDGE's length reward) and limit/ (a hard
limit): its questions before and after, and each step's mean length and accuracy.
"""

import json
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cotjax.report.statistics import bootstrap_interval, mcnemar
from cotjax.training.metrics import wilson_interval

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "real_student"
STOP = 28  # the checkpoint that the validation questions chose
WINDOW = 5


def lines(name: str) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [json.loads(line) for line in (RESULTS / name).read_text("utf-8").splitlines()]


def paired() -> dict[str, Any]:
    """Prints the paired numbers; before and after: (accuracy, low, high) in %, mean tokens."""
    before, after = (
        {row["id"]: row for row in lines(f"limit/{n}.jsonl")} for n in ("before", "after")
    )
    right = [[bool(side[name]["correct"]) for name in before] for side in (before, after)]
    tokens = [[side[name]["tokens"] for name in before] for side in (before, after)]
    points = bootstrap_interval([100.0 * (b - a) for a, b in zip(*right, strict=True)])
    shorter = bootstrap_interval([float(b - a) for a, b in zip(*tokens, strict=True)])
    print(f"{len(before)} questions, McNemar {mcnemar(*right):.3f}")
    print(f"points {points.mean:+.1f} ({points.low:+.1f} to {points.high:+.1f})")
    print(f"tokens {shorter.mean:+.1f} ({shorter.low:+.1f} to {shorter.high:+.1f})")
    print(f"tokens {np.mean(tokens[0]):.1f} -> {np.mean(tokens[1]):.1f}")
    found: dict[str, Any] = {}
    for name, marks, length in zip(("before", "after"), right, tokens, strict=True):
        low, high = wilson_interval(sum(marks), len(marks))
        found[name] = 100 * np.mean(marks), 100 * low, 100 * high, float(np.mean(length))
    return found


def draw(found: dict[str, Any]) -> None:
    """Accuracy against tokens on held-out questions, and the way there in training."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    reached, way = figure.subplots(1, 2)
    first = [line for line in lines("grpo_metrics.jsonl") if line["kind"] == "eval"]
    x, y = [line["tokens"] for line in first], [100 * line["accuracy"] for line in first]
    reached.plot(x, y, "o-", color="#8a8f98", label="BRIDGE's length reward, 0 to 48 steps")
    for line in first:
        point = line["tokens"], 100 * line["accuracy"]
        reached.annotate(line["step"], point, xytext=(-5, 6), textcoords="offset points",
                         ha="right", color="#5a5f68", fontsize=9)  # fmt: skip
    for name, (share, low, high, length) in found.items():
        reached.errorbar(length, share, yerr=[[share - low], [high - share]], fmt="s", capsize=3,
                         color="tab:blue")  # fmt: skip
        told = name if name == "before" else f"after {STOP} steps"
        reached.annotate(told, (length, share), xytext=(8, -12), textcoords="offset points",
                         color="tab:blue")  # fmt: skip
    reached.plot([], [], "s", color="tab:blue", label="a hard limit, on other questions")
    reached.set(xlabel="tokens of an answer", ylabel="held-out accuracy, greedy, %",
                xlim=(0, 225), ylim=(0, 40))  # fmt: skip
    reached.legend(frameon=False, fontsize="small", loc="lower right")
    for name, color in (("grpo_metrics.jsonl", "#8a8f98"), ("limit/metrics.jsonl", "tab:blue")):
        steps = [line for line in lines(name) if line["kind"] == "train"]
        right = _mean([100 * line["accuracy"] for line in steps])
        length = _mean([line["completion_tokens"] for line in steps])
        ends = range(WINDOW, len(steps) + 1)
        way.plot(ends, length, color=color)
        way.plot(ends, right, color=color, linestyle="--")
    way.axvline(STOP, color="tab:blue", linewidth=0.8, alpha=0.5, label=f"step {STOP}, as reported")
    way.plot([], [], color="black", label="tokens of a sampled answer")
    way.plot([], [], "--", color="black", label="right, %")
    way.set(xlabel=f"training step (means of {WINDOW})", ylim=(0, 200))
    way.legend(frameon=False, fontsize="small")
    for axes in (reached, way):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "limit" / "way.png", dpi=130)


def _mean(values: list[float]) -> np.ndarray:
    return np.convolve(values, np.ones(WINDOW) / WINDOW, "valid")


if __name__ == "__main__":
    draw(paired())
