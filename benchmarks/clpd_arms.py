"""The arms of CLPD side by side: same student, same optimizer steps and tokens, several seeds.

    python benchmarks/tiny_teachers.py --out teachers
    python benchmarks/clpd_arms.py run --teachers teachers --out arms --seeds 5
    python benchmarks/clpd_arms.py table --out arms

`run` appends one line per run to OUT/results.jsonl and skips what is there, so it can be stopped at
any time. `table` writes OUT/table.md: means with 95 % intervals, spread (standard deviation), and
the differences from the standard arm, paired by seed; and draws OUT/arms.png (learning curves) and
OUT/weights.png (the teachers' weights). Another --seeds, --divergences or --arms adds to the same
files; change --steps only with another --out.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).parents[1]
STRONG, ALL, REVERSED = ("large",), ("small", "medium", "large"), ("large", "medium", "small")
EASY, HARD, SHUFFLED = (f"--curriculum.direction={word}" for word in (
    "easy_first", "hard_first", "shuffled"
))  # fmt: skip

# A hand-over within every 20 steps or so; the default measures every 10 steps, with patience 3.
ADAPTIVE, EAGER = (
    "--curriculum.schedule=adaptive",
    [
        "--curriculum.check-every=2",
        "--curriculum.patience=1",
        "--curriculum.min-progress=0.05",
        "--curriculum.handover=4",
    ],
)
# Name: teachers, further flags.
ARMS = {
    "standard": (STRONG, [SHUFFLED]),
    "order only": (STRONG, [EASY]),
    "teachers only": (ALL, [SHUFFLED]),
    "both": (ALL, [EASY]),
    "control: hard to easy": (ALL, [HARD]),
    "control: strong to weak": (REVERSED, [EASY]),
    # What the paper leaves to future work.
    "both, adaptive": (ALL, [EASY, ADAPTIVE]),
    "both, adaptive, eager": (ALL, [EASY, ADAPTIVE, *EAGER]),
    "both, by student loss": (ALL, [EASY, "--curriculum.difficulty=student_loss"]),
    "both, by pass rate": (ALL, [EASY, "--curriculum.difficulty=pass_rate"]),
}
DIVERGENCES = {
    "forward_kl": ["--distill.divergence=forward_kl"],
    "reverse_kl": ["--distill.divergence=reverse_kl"],
    "jensen_shannon": ["--distill.divergence=jensen_shannon"],
    "on_policy": ["--distill.divergence=reverse_kl", "--distill.on-policy=0.5"],
}
DEFAULT_ARMS = list(ARMS)[:6]


def run_one(options: argparse.Namespace, arm: str, divergence: str, seed: int) -> dict:
    """Trains in a process of its own; one line for the file."""
    teachers, flags = ARMS[arm]
    name = f"{arm}-{divergence}-{seed}".replace(" ", "_").replace(":", "").replace(",", "")
    folder = options.out / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    argv = [sys.executable, "-m", "cotjax.train", "--config", ROOT / "configs" / "tiny_clpd.toml"]
    argv += [f"--output={folder.parent}", f"--name={name}", f"--seed={seed}"]
    argv += [f"--steps={options.steps}", f"--eval.every={options.eval_every}"]
    argv += [
        "--curriculum.ranking-problems=0",
        "--checkpoint.every=0",
        *flags,
        *DIVERGENCES[divergence],
    ]
    argv += ["--teachers.paths", *(options.teachers / name for name in teachers)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(options.out / "compiled")}
    with (options.out / "log.txt").open("a") as log:
        done = subprocess.run([str(word) for word in argv], env=cache | os.environ, stdout=log)
    if done.returncode:
        raise SystemExit(f"{name} failed; see {options.out / 'log.txt'}")
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    shutil.rmtree(folder / "checkpoints")
    return {
        "arm": arm,
        "divergence": divergence,
        "seed": seed,
        "steps": result["steps"],
        "tokens": sum(line["batch_tokens"] * line["used"] for line in train),
        "seconds": result["seconds"],
        "before": result["before"],
        "after": result["after"],
        "curve": [(line["step"], line["accuracy"]) for line in lines if line["kind"] == "eval"],
        "weights": [
            [line[f"teacher_{k + 1}"] for k in range(len(teachers))] for line in train[::5]
        ],
    }


def run(options: argparse.Namespace) -> None:
    """Every missing run, seed by seed, so that a stopped comparison is balanced."""
    options.out.mkdir(parents=True, exist_ok=True)
    done = {key(line) for line in read(options.out)}
    wanted = [(a, d, s) for s in range(options.seeds) for d in options.divergences
              for a in options.arms]  # fmt: skip
    for arm, divergence, seed in wanted:
        if (arm, divergence, seed) in done:
            continue
        line = run_one(options, arm, divergence, seed)
        with (options.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{arm}, {divergence}, seed {seed}: {line['after']['accuracy']:.1%}", flush=True)


def read(folder: pathlib.Path) -> list[dict]:
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(line: dict) -> tuple[str, str, int]:
    return line["arm"], line["divergence"], line["seed"]


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t; NaN for one value."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(reach)


def table(options: argparse.Namespace) -> None:
    """Prints the comparison as Markdown and draws it."""
    lines = read(options.out)
    shown = [
        "| divergence | arm | seeds | accuracy | spread | sampled | against standard | tokens "
        "| steps | data |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for divergence in DIVERGENCES:
        arms = {a: {line["seed"]: line for line in lines
                    if (line["arm"], line["divergence"]) == (a, divergence)}
                for a in ARMS}  # fmt: skip
        for arm, by_seed in arms.items():
            if by_seed:
                shown.append(row(divergence, arm, by_seed, arms["standard"]))
    (options.out / "table.md").write_text("\n".join(shown) + "\n")
    print(*shown, sep="\n")
    draw_curves(lines, options.out / "arms.png")
    draw_weights(lines, options.out / "weights.png")


def row(divergence: str, arm: str, by_seed: dict, standard: dict) -> str:
    """A line of the table."""
    runs = list(by_seed.values())
    cells = [divergence, arm, str(len(runs))]
    for name in ("accuracy", "sampled_accuracy"):
        mean, reach = interval([100 * run["after"][name] for run in runs])
        cells.append(f"{mean:.1f} ± {reach:.1f}")
    spread = np.std([100 * run["after"]["accuracy"] for run in runs], ddof=1) if runs[1:] else 0.0
    cells.insert(4, f"{spread:.1f}" if runs[1:] else "")
    both = sorted(by_seed.keys() & standard.keys())
    mean, reach = interval(
        [100 * (by_seed[s]["after"]["accuracy"] - standard[s]["after"]["accuracy"]) for s in both]
    ) if both else (float("nan"),) * 2  # fmt: skip
    cells.append("" if arm == "standard" else f"{mean:+.1f} ± {reach:.1f}")
    cells.append(f"{np.mean([run['after']['tokens'] for run in runs]):.1f}")
    cells.append("/".join(sorted({str(run["steps"]) for run in runs})))
    cells.append(f"{np.mean([run['tokens'] for run in runs]) / 1000:.0f}k")
    return f"| {' | '.join(cells)} |"


def draw_curves(lines: list[dict], path: pathlib.Path) -> None:
    """Learning curves, one panel per divergence; the band is the range of the seeds."""
    shown = [d for d in DIVERGENCES if any(line["divergence"] == d for line in lines)]
    size = (4 * max(len(shown), 1), 3.4)
    figure, panels = plt.subplots(1, max(len(shown), 1), figsize=size, squeeze=False)
    for panel, divergence in zip(panels[0], shown, strict=False):
        for arm in ARMS:
            curves = [line["curve"] for line in lines
                      if (line["arm"], line["divergence"]) == (arm, divergence)]  # fmt: skip
            if curves:
                steps = [step for step, _ in curves[0]]
                values = np.array([[y for _, y in curve] for curve in curves])
                (drawn,) = panel.plot(steps, values.mean(axis=0), label=arm)
                low, high = values.min(axis=0), values.max(axis=0)
                panel.fill_between(steps, low, high, color=drawn.get_color(), alpha=0.15)
        panel.set(title=divergence, xlabel="step", ylabel="accuracy, held out")
        panel.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def draw_weights(lines: list[dict], path: pathlib.Path) -> None:
    """The teachers' weights over time, one panel per arm; the first seed that there is."""
    first = {line["arm"]: line for line in reversed(lines)}
    arms = [arm for arm in ARMS if arm in first]
    size = (2.6 * max(len(arms), 1), 2.4)
    figure, panels = plt.subplots(1, max(len(arms), 1), figsize=size, squeeze=False, sharey=True)
    for panel, arm in zip(panels[0], arms, strict=False):
        by_teacher = zip(*first[arm]["weights"], strict=True)
        for name, weights in zip(ARMS[arm][0], by_teacher, strict=True):
            panel.plot(range(1, 5 * len(weights), 5), weights, label=name)
        panel.set_title(arm, fontsize=8)
        panel.set_xlabel("step")
        panel.legend(fontsize=6)
    panels[0][0].set_ylabel("weight")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """`run` or `table`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("run", "table"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("arms"))
    parser.add_argument("--teachers", type=pathlib.Path, default=pathlib.Path("teachers"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--eval-every", type=int, default=30)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=DEFAULT_ARMS)
    parser.add_argument("--divergences", nargs="+", choices=DIVERGENCES, default=[*DIVERGENCES])
    options = parser.parse_args()
    {"run": run, "table": table}[options.mode](options)


if __name__ == "__main__":
    main()
