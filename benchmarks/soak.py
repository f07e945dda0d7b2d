"""A long run, watched: do its memory, descriptors, threads and steps stay as they are?

    python benchmarks/soak.py OUT --steps=2000 [flags of cotjax train]    # goes on if stopped
    python benchmarks/soak.py OUT --read                                  # only what was measured

Trains in a process of its own, and looks at it in /proc every --every seconds: resident memory,
open descriptors and threads. OUT/samples.jsonl has a line for each look; the run lies in OUT/run,
whose metrics.jsonl has the time of each step. Each process of a run that was stopped begins with
memory of its own, so the growth is one slope for all of them, over the last three quarters of each,
fitted to means of blocks with a 95 % interval of Student's t. What grows by less than 2 % of itself
in all steps, or not surely, is flat. Draws OUT/soak.svg; the status is 1 if anything grows. Linux.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cotjax.storage import append_whole, rows_of

BLOCKS = 24  # of each process; looks one after the other are not independent
LEFT_OUT = 0.25  # share of each process before anything is fitted
SMALL = 0.02  # of the mean, over all steps: no growth that anybody would notice
WATCHED = {"memory": "MiB", "descriptors": "", "threads": "", "step_s": "s"}
Points = list[tuple[float, float, int]]  # step, value, number of the process


@dataclasses.dataclass(frozen=True)
class Growth:
    """How something grows with the steps.

    Attributes:
      slope: per step, with the ends of its interval.
      low: see slope.
      high: see slope.
      mean: of the values that were fitted.
      steps: of the run.
    """

    slope: float
    low: float
    high: float
    mean: float
    steps: int

    @property
    def is_flat(self) -> bool:
        """Whether it does not surely grow, or too little to matter."""
        return self.low <= 0 or self.slope * self.steps < SMALL * self.mean

    def told(self, unit: str) -> str:
        """In words."""
        low, slope, high = (1000 * one for one in (self.low, self.slope, self.high))
        verdict = "flat" if self.is_flat else "GROWS"
        return (f"{self.mean:,.3g} {unit}".strip() + f", {slope:+.2g} per 1,000 steps "
                f"({low:+.2g} to {high:+.2g}): {verdict}")  # fmt: skip


def fitted(points: Points, steps: int) -> Growth:
    """One slope for all processes, each with a height of its own.

    Args:
      points: what was seen.
      steps: of the run.
    """
    blocks = [one for number in sorted({p[2] for p in points}) for one in _blocks(points, number)]
    if not blocks:
        return Growth(0.0, -math.inf, math.inf, float(np.mean([p[1] for p in points])), steps)
    x, y = (np.concatenate([pair[k] for pair in blocks]) for k in (0, 1))
    heights = np.concatenate([pair[2] for pair in blocks])
    free = len(x) - len(blocks) - 1
    spread = float((x * x).sum())
    if free < 1 or not spread:
        return Growth(0.0, -math.inf, math.inf, float(heights.mean()), steps)
    slope = float((x * y).sum()) / spread
    error = math.sqrt(float(((y - slope * x) ** 2).sum()) / free / spread)
    reach = float(stats.t.ppf(0.975, free)) * error
    return Growth(slope, slope - reach, slope + reach, float(heights.mean()), steps)


def _blocks(points: Points, number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Means of blocks of one process, of step and value, each without its mean; and the values."""
    own = np.array([(step, value) for step, value, process in points if process == number])
    own = own[own[:, 0] >= own[0, 0] + LEFT_OUT * (own[-1, 0] - own[0, 0])]
    if len(own) > 1:
        means = np.array([one.mean(0) for one in np.array_split(own, min(BLOCKS, len(own)))])
        yield means[:, 0] - means[:, 0].mean(), means[:, 1] - means[:, 1].mean(), means[:, 1]


# Watching.


def watch(out: Path, flags: Sequence[str], every: float) -> int:
    """Trains, or goes on, and writes down what is seen; the status of the run's end."""
    run = out / "run"
    out.mkdir(parents=True, exist_ok=True)
    begun = (run / "config.toml").is_file()
    number = 1 + max((row["process"] for row in samples(out)), default=-1)
    argv = [sys.executable, "-m", "cotjax.train", f"--output={out}", "--name=run", *flags]
    with (out / "output.txt").open("ab") as said:
        process = subprocess.Popen([*argv, *["--resume"] * begun], stdout=said, stderr=said)
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # it saves itself
        try:
            while process.poll() is None:
                if seen := look(process.pid):
                    row = {"process": number, "time": round(time.time(), 2), **seen}
                    append_whole(
                        out / "samples.jsonl", json.dumps(row | {"step": last(run)}) + "\n"
                    )
                time.sleep(every)
        except KeyboardInterrupt:
            process.wait()  # which heard it too
        finally:
            signal.signal(signal.SIGTERM, before)
    return process.returncode


def look(process: int) -> dict[str, float]:
    """What a process takes now, with its memory in MiB; nothing if it has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        memory = int(found["VmRSS"].split()[0]) / 1024
        if memory < 1:  # it begins, or ends
            return {}
        return {
            "memory": round(memory, 2),
            "threads": int(found["Threads"]),
            "descriptors": len(os.listdir(f"/proc/{process}/fd")),
        }
    except (OSError, KeyError):
        return {}


def last(run: Path) -> int:
    """The last step that a run wrote down; its file is read from its end."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 65536, 0))
            rows = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for row in reversed(rows):
        if b'"kind": "train"' in row[:60]:
            return int(json.loads(row)["step"])
    return 0


def samples(out: Path) -> list[dict[str, Any]]:
    """What was seen, in its order."""
    return rows_of(out / "samples.jsonl", needs=("process", "step"))


# Reading.


def read(out: Path) -> dict[str, Points]:
    """What was measured while steps were taken, by name."""
    seen = [row for row in samples(out) if row["step"]]
    found: dict[str, Points] = {
        name: [(row["step"], row[name], row["process"]) for row in seen]
        for name in WATCHED
        if name != "step_s"
    }
    begins = {row["process"]: row["step"] for row in reversed(seen)}
    found["step_s"] = [
        (row["step"], row["step_s"], max((n for n, b in begins.items() if b <= row["step"]),
                                         default=min(begins, default=0)))
        for row in rows_of(out / "run" / "metrics.jsonl")
        if row["kind"] == "train"
    ]  # fmt: skip
    return {name: points for name, points in found.items() if points}


def draw(found: dict[str, Points], grown: dict[str, Growth], path: Path) -> None:
    """A curve for each, a color for each process, and what `fitted` says of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2 * len(found)), layout="constrained")
    every = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(every, found.items(), strict=True):
        for number in sorted({process for *_, process in points}):
            own = [(step, value) for step, value, process in points if process == number]
            axes.plot(*zip(*own, strict=True), ".", markersize=2)
        unit = WATCHED[name]
        axes.set_ylabel(f"{name}, {unit}" if unit else name)
        axes.set_title(grown[name].told(unit), fontsize=9, loc="left")
        axes.set_ylim(0, 1.15 * np.quantile([value for _, value, _ in points], 0.999))
        axes.grid(alpha=0.25)
    every[-1].set_xlabel("step")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Watches and tells; 1 if something grows, or the run's own status if it failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks")
    parser.add_argument("--read", action="store_true", help="train nothing")
    known, flags = parser.parse_known_args(argv)
    if not known.read:
        status = watch(known.out, [f"--steps={known.steps}", *flags], known.every)
        if status:
            print(f"The run ended with status {status}; {known.out / 'output.txt'} says why. The "
                  "same command goes on.")  # fmt: skip
            return status
    found = read(known.out)
    if len(found) < len(WATCHED):
        print(f"{known.out}: no look at the run while it took steps; look more often: --every.")
        return 2
    steps = max(int(step) for step, *_ in found["step_s"])
    grown = {name: fitted(points, steps) for name, points in found.items()}
    for name, growth in grown.items():
        print(f"{name}: {growth.told(WATCHED[name])}")
    draw(found, grown, known.out / "soak.svg")
    print(f"{steps:,} steps; the figure is {known.out / 'soak.svg'}")
    return int(not all(growth.is_flat for growth in grown.values()))


if __name__ == "__main__":
    sys.exit(main())
