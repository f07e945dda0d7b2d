"""Draws the README's picture: accuracy against length, before and after one run of GRPO.

    python -m cotjax.train --stage=grpo --seed=0 --name=front
    python docs/figures/frontpage.py --run runs/front --commit COMMIT   # the run's numbers, anew
    python docs/figures/frontpage.py                                    # the picture from them

The numbers are in docs/results/frontpage.jsonl: the command, then the training steps, then the
held-out problems by their number of steps.
"""

import argparse
import json
import pathlib

import matplotlib.pyplot as plt
from matplotlib.ticker import PercentFormatter

from cotjax.report.charts import smooth
from cotjax.training.metrics import wilson_interval

DOCS = pathlib.Path(__file__).parents[1]
NUMBERS, PICTURE = DOCS / "results" / "frontpage.jsonl", DOCS / "figures" / "frontpage.png"
COMMAND = "python -m cotjax.train --stage=grpo --seed=0"
GREY, BLUE, INK = "#8a94a6", "#2b6cb0", "#1a202c"


def rows(path: pathlib.Path) -> list[dict]:
    """The objects of a .jsonl file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def collect(run: pathlib.Path, commit: str) -> None:
    """Writes what the picture needs of a run folder."""
    seed = json.loads((run / "result.json").read_text("utf-8"))["seed"]
    kept = [{"kind": "run", "command": COMMAND, "seed": seed, "commit": commit}]
    for row in rows(run / "metrics.jsonl"):
        if row["kind"] == "train":
            kept.append({name: row[name] for name in ("kind", "step", "accuracy")})
            kept[-1]["tokens"] = row["completion_tokens"]
    groups: dict[tuple[str, int], list[dict]] = {}
    for row in rows(run / "completions.jsonl"):
        if row["kind"] in ("before", "after"):
            steps = row["question"].count(".") - 1  # one sentence states the start
            groups.setdefault((row["kind"], steps), []).append(row)
    for (when, steps), group in sorted(groups.items(), reverse=True):
        right = [int(row["parts"]["correct"]) for row in group]
        tokens = [row["tokens"] for row in group]
        kept.append({"kind": when, "steps": steps, "right": right, "tokens": tokens})
    NUMBERS.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")


def mean(values: list[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def against_length(axis: plt.Axes, groups: list[dict]) -> None:
    """Held-out accuracy over length: all problems, and those of each number of steps."""
    centres = []
    for when, colour, place in (("before", GREY, (14, -18)), ("after", BLUE, (34, 0))):
        own = [group for group in groups if group["kind"] == when]
        for group in own:
            at = mean(group["tokens"]), mean(group["right"])
            axis.plot(*at, "o", color=colour, alpha=0.45, markersize=6, markeredgewidth=0)
            axis.annotate(
                str(group["steps"]), at, (0, 6), textcoords="offset points",
                color=colour, fontsize=8, ha="center",
            )  # fmt: skip
        right = [one for group in own for one in group["right"]]
        tokens = mean([one for group in own for one in group["tokens"]])
        low, high = wilson_interval(sum(right), len(right))
        centres.append((tokens, mean(right)))
        axis.plot([tokens, tokens], [low, high], color=colour, linewidth=2.5)
        axis.plot(tokens, mean(right), "o", color=colour, markersize=13)
        axis.annotate(
            f"{when}\n{mean(right):.1%}, {tokens:.0f} tokens",
            (tokens, mean(right)), place, textcoords="offset points",
            color=colour, fontsize=11, fontweight="bold", va="center",
        )  # fmt: skip
    arrow = {"arrowstyle": "-|>", "color": INK, "alpha": 0.3, "shrinkA": 14, "shrinkB": 12}
    axis.annotate("", centres[1], centres[0], arrowprops=arrow)
    axis.set(xlim=(0, 235), ylim=(0.38, 1.05), xlabel="mean length of a completion, tokens")
    axis.set_title("accuracy on 256 held-out problems, greedy", loc="left")
    axis.text(
        0.02, 0.03, "small: problems of 2, 3, 4, 5 and 6 steps\nlarge: all of them, 95% interval",
        transform=axis.transAxes, fontsize=8.5, color=GREY,
    )  # fmt: skip
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def while_training(axis: plt.Axes, steps: list[dict], metric: str, title: str) -> None:
    """A metric of the sampled completions, step by step."""
    step, value = [row["step"] for row in steps], [row[metric] for row in steps]
    axis.plot(step, value, color=BLUE, alpha=0.25, linewidth=1)
    axis.plot(step, smooth(value, 6.0), color=BLUE, linewidth=2)
    axis.set_title(title, loc="left")


def draw() -> None:
    """Writes the picture."""
    plt.rcParams |= {
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.alpha": 0.25, "axes.titlesize": 10.5, "font.size": 9.5, "text.color": INK,
    }  # fmt: skip
    kept = rows(NUMBERS)
    figure, axes = plt.subplot_mosaic(
        [["length", "accuracy"], ["length", "tokens"]],
        figsize=(9.2, 4.1), width_ratios=(1.75, 1), layout="constrained",
    )  # fmt: skip
    against_length(axes["length"], [row for row in kept if row["kind"] in ("before", "after")])
    steps = [row for row in kept if row["kind"] == "train"]
    while_training(axes["accuracy"], steps, "accuracy", "accuracy of samples while training")
    while_training(axes["tokens"], steps, "tokens", "their length, tokens")
    axes["accuracy"].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes["accuracy"].tick_params(labelbottom=False)
    axes["tokens"].set(xlabel="step of 16 prompts × 8 completions", ylim=(40, None))
    figure.savefig(PICTURE, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws the README's picture.")
    parser.add_argument("--run", type=pathlib.Path, help="run folder to take the numbers from")
    parser.add_argument("--commit", default="", help="of the run")
    args = parser.parse_args()
    if args.run:
        collect(args.run, args.commit)
    draw()
