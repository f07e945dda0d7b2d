"""How time and memory grow: with batch, group, length, vocabulary, teachers and records.

    python benchmarks/growth.py OUT                     # all axes; an hour of two cores
    python benchmarks/growth.py OUT --only records      # one of them
    python benchmarks/growth.py OUT --quick             # the least shapes, to see that it works

Each point is measured in a process of its own (`growth_points.py`) and written to
OUT/growth.jsonl at once; a point that is there is not run again. Then come OUT/growth.md, a table
with the exponent of each quantity, and OUT/growth.svg.

Two exponents are told. `upper` is the slope of log(value) over log(size) at the three largest
sizes: what one sees. `grows` is the p of

    value = constant + factor · size^p

whose squared relative errors at all sizes are least: what is left when imports, compiled programs
and all else that has no size are taken away. Of exponents that fit nearly as well it is the one
nearest to 1, since a few points with noise tell no more. Where seconds grow by less than half, or
memory by less than a tenth, from the smallest size to the largest, it is 0.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

POINTS = Path(__file__).with_name("growth_points.py")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
      title: for people.
      sizes: that are measured.
      quick: those of `--quick`.
    """

    title: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


AXES = {
    "prompts": Axis("prompts of a step", (4, 8, 16, 32, 64), (2, 4)),
    "group": Axis("completions of a prompt", (4, 8, 16, 32, 64), (2, 4)),
    "length": Axis("tokens of a completion", (64, 128, 256, 512, 1024), (4, 8)),
    "vocabulary": Axis("vocabulary", tuple(2**n for n in range(12, 18)), (432, 864)),
    "teachers": Axis("teachers", (1, 2, 4, 8), (1, 2)),
    "records": Axis(
        "records, made when asked for", (10**3, 10**4, 10**5, 10**6, 10**7), (100, 1000)
    ),
    "file": Axis("records of a file", (10**3, 10**4, 10**5, 10**6), (100, 1000)),
}
DATA = ("records", "file")
FLAT = {"seconds": 1.5, "memory": 1.1}  # the last over the first of what does not grow
NEARLY = 1.25  # times the least error fits as well


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a quantity grows.

    Attributes:
      grows: p of constant + factor · size^p.
      constant: of it.
      upper: slope of the logarithms at the three largest sizes.
    """

    grows: float
    constant: float
    upper: float


def fit(sizes: Sequence[float], values: Sequence[float], kind: str = "seconds") -> Fit:
    """See the module docstring.

    Args:
      sizes: at least two, ascending.
      values: > 0, one for each.
      kind: of `FLAT`.
    """
    size, value = np.asarray(sizes, float), np.asarray(values, float)
    upper = float(np.polyfit(np.log(size[-3:]), np.log(value[-3:]), 1)[0])
    if value[-1] < FLAT[kind] * value[0]:
        return Fit(0.0, float(np.median(value)), upper)
    found = [_with_exponent(power, size, value) for power in np.arange(0.05, 3.005, 0.01)]
    enough = NEARLY * min(found)[0] + 1e-9
    _, grows, constant = min(
        (one for one in found if one[0] <= enough), key=lambda one: abs(one[1] - 1)
    )
    return Fit(grows, constant, upper)


def _with_exponent(power: float, size: np.ndarray, value: np.ndarray) -> tuple[float, ...]:
    """(error, power, constant) of the best constant and factor, neither below 0."""
    columns = np.stack([1 / value, (size / size[-1]) ** power / value], axis=1)
    best = (math.inf, float(power), 0.0)
    for used in ([0, 1], [1]):  # both, or no constant
        found, *_ = np.linalg.lstsq(columns[:, used], np.ones(len(size)), rcond=None)
        error = float(((columns[:, used] @ found - 1) ** 2).sum())
        if (found >= 0).all() and error < best[0]:
            best = error, float(power), float(found[0]) if 0 in used else 0.0
    return best


# Points.


def read(path: Path) -> list[Row]:
    """What was measured; a line that a kill cut short is not."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def missing(rows: Sequence[Row], axes: Sequence[str], *, quick: bool) -> Iterator[Row]:
    """The points that are not there, small ones first."""
    there = {(row["axis"], row["value"], row["quick"]) for row in rows}
    for axis in axes:
        for value in AXES[axis].quick if quick else AXES[axis].sizes:
            if (axis, value, quick) not in there:
                yield {"axis": axis, "value": value, "quick": quick}


def run(point: Row, steps: int) -> Row:
    """Measures a point in a process of its own, over so many steps."""
    command = [sys.executable, str(POINTS), json.dumps(point | {"steps": steps})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{point['axis']} = {point['value']}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def append(path: Path, row: Row) -> None:
    """Adds a line, on a line of its own whatever stood there before."""
    text = path.read_text("utf-8") if path.exists() else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if text and not text.endswith("\n") else "") + json.dumps(row) + "\n")


# What they say.


def quantities(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The seconds of every quantity by its name, in the order of the rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, dict) and "cpu_s" in value:
                found.setdefault(name, []).append(value)
    return found


def of_axis(rows: Sequence[Row], axis: str, *, quick: bool) -> list[Row]:
    """The points of an axis, small ones first."""
    own = [row for row in rows if row["axis"] == axis and row["quick"] == quick]
    return sorted(own, key=lambda row: row["value"])


def table(rows: Sequence[Row], *, quick: bool = False) -> str:
    """Markdown: a line for each quantity of each axis that has two points."""
    lines = [
        "| | smallest | largest | constant | grows | upper | clock, largest | grows |",
        "|---|" + "---:|" * 7,
    ]
    for name, axis in AXES.items():
        own = of_axis(rows, name, quick=quick)
        if len(own) < 2:
            continue
        sizes = [row["value"] for row in own]
        lines.append(f"| **{axis.title}, {sizes[0]:,} to {sizes[-1]:,}** |" + " |" * 7)
        for quantity, seconds in quantities(own).items():
            cpu, clock = ([one[key] for one in seconds] for key in ("cpu_s", "wall_s"))
            wall = f"{clock[-1]:,.3g}", f"{fit(sizes, clock).grows:.2f}"
            lines.append(_line(f"{quantity}, s of the CPU", cpu, fit(sizes, cpu), *wall))
        peak = [row["peak_mib"] for row in own]
        lines.append(_line("peak memory, MiB", peak, fit(sizes, peak, "memory")))
    return "\n".join(lines) + "\n"


def _line(title: str, values: Sequence[float], found: Fit, *wall: str) -> str:
    numbers = (f"{number:,.3g}" for number in (values[0], values[-1], found.constant))
    cells = (title, *numbers, f"{found.grows:.2f}", f"{found.upper:.2f}", *(wall or ("", "")))
    return f"| {' | '.join(cells)} |"


def draw(rows: Sequence[Row], path: Path, *, quick: bool = False) -> None:
    """Steps above and records below; seconds of the CPU at the left, memory at the right."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    ink = "#7a828a"  # legible on white and on near-black
    plt.rcParams.update(
        {"text.color": ink, "xtick.color": ink, "ytick.color": ink, "axes.labelcolor": ink}
        | {"axes.edgecolor": ink, "svg.hashsalt": "cotjax", "legend.frameon": False}
    )
    figure, panels = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for (seconds, memory), names in zip(
        panels, ([name for name in AXES if name not in DATA], DATA), strict=True
    ):
        unit = "records" if names is DATA else "times the smallest size"
        for axes, title in ((seconds, "seconds of the CPU"), (memory, "peak memory, MiB")):
            axes.set(xscale="log", yscale="log", title=title, xlabel=unit)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        for axis in names:
            _draw_axis(of_axis(rows, axis, quick=quick), axis, seconds, memory)
        for axes in (seconds, memory):
            _draw_linear(axes, ink)
            if axes.lines:
                axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


def _draw_axis(own: Sequence[Row], name: str, seconds: Any, memory: Any) -> None:
    """Of steps the whole, of records what there is; of a file how it is opened."""
    if len(own) < 2:
        return
    sizes = [row["value"] for row in own]
    shown = sizes if name in DATA else [size / sizes[0] for size in sizes]
    wanted = {"records": "open, sort, batch, resume", "file": "open"}.get(name, "step").split(", ")
    for quantity, found in quantities(own).items():
        if quantity.rpartition(", ")[2] not in wanted:
            continue
        values = [one["cpu_s"] for one in found]
        label = f"{name}: {quantity}" if name in DATA else name
        label += f", n^{fit(sizes, values).grows:.2f}"
        seconds.plot(shown, values, marker="o", markersize=3, label=label)
    values = [row["peak_mib"] for row in own]
    label = f"{name}, n^{fit(sizes, values, 'memory').grows:.2f}"
    memory.plot(shown, values, marker="o", markersize=3, label=label)


def _draw_linear(axes: Any, color: str) -> None:
    """A line of slope 1 through the largest value of all."""
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in axes.lines]
    if not ends:
        return
    low, high = axes.get_xlim(), axes.get_ylim()
    x, y = max(ends, key=lambda end: end[1])
    axes.plot([low[0], low[1]], [y * low[0] / x, y * low[1] / x], ":", color=color, label="linear")
    axes.set(xlim=low, ylim=high)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the results")
    parser.add_argument(
        "--only", choices=AXES, action="append", metavar="AXIS", help=", ".join(AXES)
    )
    parser.add_argument("--steps", type=int, default=5, help="that count, after the first")
    parser.add_argument("--quick", action="store_true", help="the least shapes, two points an axis")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "growth.jsonl"
    for point in missing(read(path), args.only or list(AXES), quick=args.quick):
        print(f"{point['axis']} = {point['value']:,}", file=sys.stderr, flush=True)
        append(path, run(point, 1 if args.quick else args.steps))
    rows = read(path)
    text = table(rows, quick=args.quick)
    (args.out / "growth.md").write_text(text, encoding="utf-8")
    draw(rows, args.out / "growth.svg", quick=args.quick)
    print(text, end="")


if __name__ == "__main__":
    main()
