"""Sampling beside learning: how much of a rollout's time an update runs too, on 8 CPU devices.

    python benchmarks/overlap.py                                  # the table
    python benchmarks/overlap.py --trace overlap.json             # for https://ui.perfetto.dev
    python benchmarks/overlap.py --figure docs/figures/overlap.svg

Two runs of a small GRPO stage: all devices do both (a step samples, then learns), and four devices
sample only, a step ahead (`mesh.rollout_devices = 4`, `rollout.off_policy_steps = 1`). Each rollout
and each update is noted with its begin and its end on the host, where both are waited for. The
devices of a CPU share its cores, so overlap makes nothing faster here: it is what is shown.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DEVICES, STEPS, COMPILING = 8, 8, 2  # the first steps compile, and are left out
SHARED = (
    *("--stage=grpo", "--model.path=tiny", f"--steps={STEPS}", "--rollout.prompts=8"),
    *("--rollout.group-size=8", "--rollout.max-new-tokens=64", "--mesh.data=-1"),
    # One shape of prompts and of completions, so that nothing is compiled after the first steps.
    *("--data.prompt-widths=1", "--eval.problems=8", "--eval.samples=0"),
)
RUNS = {
    "together": (),
    "apart, a step ahead": (
        *("--mesh.rollout-devices=4", "--rollout.off-policy-steps=1"),
        "--policy.sampler-correction=2",
    ),
}


@dataclasses.dataclass(frozen=True)
class Span:
    """What was done from when to when.

    Attributes:
      name: "rollout" or "update".
      step: whose.
      begin: seconds.
      end: seconds.
    """

    name: str
    step: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


def spans_of(flags: Sequence[str], folder: Path) -> list[Span]:
    """The rollouts and updates of a run, which takes its steps as the loop does."""
    import jax

    from cotjax.config import load
    from cotjax.config.plugins import open_stage
    from cotjax.parallel.mesh import run_mesh

    config = load([*SHARED, *flags, "--name=overlap"])
    stage = open_stage(config, run_mesh(config.mesh))
    stage.prepare(folder)
    spans: list[Span] = []

    def noted(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            step, began = sum(one.name == name for one in spans), time.perf_counter()
            found = jax.block_until_ready(own(*args))
            spans.append(Span(name, step, began, time.perf_counter()))
            return found

        return call

    stage.sample_with = noted("rollout", stage.sample_with)
    update, state = noted("update", stage.update), stage.state
    for step in range(STEPS):
        state, _ = update(state, stage.next_step(state.params, step).batch)
    return spans


def overlapped(spans: Sequence[Span]) -> float:
    """Seconds of rollouts in which an update ran too."""
    updates = [one for one in spans if one.name == "update"]
    return sum(
        max(min(one.end, other.end) - max(one.begin, other.begin), 0.0)
        for one in spans
        if one.name == "rollout"
        for other in updates
    )


def row(label: str, spans: Sequence[Span]) -> str:
    """A row of the table, of the steps that compile nothing."""
    rollouts, updates = (
        [one for one in spans if one.name == name and one.step >= COMPILING]
        for name in ("rollout", "update")
    )
    ends = [one.end for one in spans if one.name == "update" and one.step >= COMPILING - 1]
    steps = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    beside = overlapped([*rollouts, *(one for one in spans if one.name == "update")])
    share = beside / sum(one.seconds for one in rollouts)
    numbers = (statistics.median(one.seconds for one in kind) for kind in (rollouts, updates))
    cells = (*(f"{number:.2f}" for number in numbers), f"{statistics.median(steps):.2f}")
    return f"| {label} | {' | '.join(cells)} | {share:.0%} |"


def as_trace(found: dict[str, list[Span]]) -> dict[str, Any]:
    """Chrome's trace format: a process for each run, a thread for rollouts and one for updates."""
    events: list[dict[str, Any]] = []
    for process, (label, spans) in enumerate(found.items()):
        first = min(one.begin for one in spans)
        name = {"name": "process_name", "ph": "M", "pid": process, "args": {"name": label}}
        events += [name] + [
            {
                **{"name": f"{one.name} {one.step}", "ph": "X", "pid": process, "tid": one.name},
                **{"ts": 1e6 * (one.begin - first), "dur": 1e6 * one.seconds},
            }
            for one in spans
        ]
    return {"traceEvents": events}


def draw(found: dict[str, list[Span]], path: Path) -> None:
    """A line for the rollouts and one for the updates of each run."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    ink = "#7a828a"  # legible on white and on near-black
    colors = {"rollout": "#4c8fd6", "update": "#e0812c"}
    plt.rcParams.update({"text.color": ink, "xtick.color": ink, "ytick.color": ink})
    figure, every = plt.subplots(len(found), figsize=(8, 1.1 * len(found) + 0.6), squeeze=False)
    for axes, (label, spans) in zip(every[:, 0], found.items(), strict=True):
        shown = [one for one in spans if one.step >= COMPILING]
        first = min(one.begin for one in shown)
        for place, (name, color) in enumerate(reversed(colors.items())):
            own = [one for one in shown if one.name == name]
            bars = [(one.begin - first, one.seconds) for one in own]
            axes.broken_barh(bars, (place - 0.4, 0.8), facecolors=color)
            for one in own:
                middle = (one.begin + one.end) / 2 - first
                axes.text(middle, place, str(one.step), ha="center", va="center", color="white")
        axes.set_yticks(range(len(colors)), list(reversed(colors)))
        axes.set_title(label, color=ink, fontsize=10, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
    every[-1, 0].set_xlabel("seconds", color=ink)
    figure.tight_layout()
    figure.savefig(path, transparent=True, metadata={"Date": None} if path.suffix == ".svg" else {})


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--trace", type=Path, metavar="FILE.json")
    flags.add_argument("--figure", type=Path, metavar="FILE.svg")
    args = flags.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)}
    found: dict[str, list[Span]] = {}
    for label, own in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[label] = spans_of(own, Path(folder))
    print("| devices | rollout, s | update, s | step, s | of the rollout, beside an update |")
    print("|---|---|---|---|---|")
    print("\n".join(row(label, spans) for label, spans in found.items()))
    if args.trace:
        args.trace.write_text(json.dumps(as_trace(found)), encoding="utf-8")
    if args.figure:
        draw(found, args.figure)


if __name__ == "__main__":
    main()
