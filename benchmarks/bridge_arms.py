"""The bridge against its parts and against fine-tuning: one student, equal tokens, several seeds.

    python benchmarks/bridge_arms.py run --out bridge_arms --seeds 3
    python benchmarks/bridge_arms.py table --out bridge_arms

Every arm starts from the built-in student, has the config's data, and as many steps as it takes to
have seen the tokens of the three stages. `run` skips what is in OUT and resumes a run that was
stopped, so it can be killed at any time and given again; seeds come one after the other, so that a
stopped comparison is balanced. `table` prints means with 95 % intervals over seeds, differences
paired by seed, and draws OUT/arms.png. `--config configs/tiny_bridge_long.toml`: long problems.

Tokens are those that an update or the sampler saw: rows of the supervised stages without padding;
a policy stage's completions, each with its prompt, and the attempts of mining.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import tomli_w
from scipy import stats

from cotjax.config import stage_class

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "tiny_bridge_arms.toml"
TEMPLATES = ROOT / "configs" / "prompts_known_tags.toml"
AGAINST = "SFT, verbose"
BRIEF = ("--eval.problems=2", "--eval.samples=1")  # the arms are measured by `measure`, all alike
STAGES = ("1-reconstruct", "2-grpo", "3-rewrite")
SUPERVISED = (
    "--model.init=pretrained", "--batch.size=16", "--batch.sequence-length=576",
    "--optimizer.learning-rate=1e-3", "--optimizer.schedule=linear", "--optimizer.warmup-steps=5",
    "--checkpoint.every=40",
)  # fmt: skip
ROW_TOKENS = 16 * 576 * 0.97  # of such a step, without padding
MINED = 80  # tokens of an attempt, about; mining keeps none


@dataclasses.dataclass(frozen=True)
class Arm:
    """A run beside the bridge of the same seed.

    Attributes:
      flags: of the run, over CONFIG.
      step_tokens: what a step sees, to give it the bridge's tokens.
      stage: its one stage.
    """

    flags: tuple[str, ...]
    step_tokens: float = ROW_TOKENS
    stage: str = "sft"


ARMS = {
    AGAINST: Arm((*SUPERVISED, "--data.concise-share=0")),
    "SFT, concise": Arm((*SUPERVISED, "--data.concise-share=1")),
    "GRPO alone": Arm(("--checkpoint.every=10",), 64 * 145.0, "grpo"),
    "SFT, the bridge's mix": Arm(SUPERVISED),
}


def python(options: argparse.Namespace, *words: object) -> None:
    """A module of cotjax, in a process of its own."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(options.out / "compiled")}
    argv = [sys.executable, "-m", *map(str, words)]
    with (options.out / "log.txt").open("a") as log:
        done = subprocess.run(argv, env=cache | os.environ, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv[1:])} failed; see {options.out / 'log.txt'}")


def alone(options: argparse.Namespace, stage: str) -> pathlib.Path:
    """A config of one stage: what it reads of the settings that hold for the whole list."""
    table = tomllib.loads(pathlib.Path(options.config).read_text("utf-8"))
    reads = stage_class(stage).reads_key
    kept = {
        section: {name: value for name, value in own.items() if reads(f"{section}.{name}")}
        for section, own in table.items()
        if isinstance(own, dict)
    }
    path = options.out / f"{stage}.toml"
    path.write_text(tomli_w.dumps({"stage": stage} | {k: v for k, v in kept.items() if v}))
    return path


def train(
    options: argparse.Namespace, name: str, config: pathlib.Path, *flags: str
) -> pathlib.Path:
    """Runs what is not there, from where it stopped; returns its folder."""
    folder = options.out / "runs" / name
    if not (folder / "result.json").exists():
        words = [f"--output={folder.parent}", f"--name={name}", f"--data.templates={TEMPLATES}"]
        words += BRIEF
        words += ["--resume"] * (folder / "config.toml").exists()
        python(options, "cotjax.train", "--config", config, *words, *flags)
    return folder


def tokens(folder: pathlib.Path) -> float:
    """What a run's updates and its mining saw."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text("utf-8").splitlines())
    seen = sum(x["batch_tokens"] * x.get("used", 1) for x in lines if x["kind"] == "train")
    mined = folder / "mined.jsonl"
    if mined.exists():
        config = tomllib.loads((folder / "config.toml").read_text("utf-8"))
        attempts = sum(json.loads(x)["attempts"] for x in mined.read_text("utf-8").splitlines())
        seen += attempts * (config["eval"]["max_prompt_tokens"] + MINED)
    return seen


def measure(
    options: argparse.Namespace, checkpoint: object, name: str, more: Sequence[str] = ()
) -> dict:
    """Greedy and sampled numbers on the held-out problems; kept in OUT/measured."""
    target = options.out / "measured" / f"{name}.json"
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        flags = [f"--eval.problems={options.problems}", f"--eval.samples={options.samples}"]
        flags += ["--config", options.config] * (name == "base") + [*more]
        python(options, "cotjax.evaluate", "--checkpoint", checkpoint, "--out", target, *flags)
    return json.loads(target.read_text("utf-8"))


def run_seed(options: argparse.Namespace, seed: int) -> None:
    """The bridge, then what is compared with it."""
    own = f"--seed={seed}"
    bridge = train(options, f"bridge-{seed}", options.config, own)
    budget = 0.0
    for number, stage in enumerate(STAGES, 1):
        if not (bridge / stage / "result.json").exists():  # no failures left to rewrite
            continue
        budget += tokens(bridge / stage)
        arm = " + ".join(str(one) for one in range(1, number + 1))
        keep(options, arm, seed, budget, bridge / stage)
    for arm in options.arms:
        settings = ARMS[arm]
        steps = math.ceil(budget / settings.step_tokens)
        flags = [*settings.flags, own, f"--steps={steps}"]
        name = f"{re.sub('[^a-zA-Z0-9]+', '_', arm)}-{seed}"
        folder = train(options, name, alone(options, settings.stage), *flags)
        keep(options, arm, seed, tokens(folder), folder)


def keep(
    options: argparse.Namespace,
    arm: str,
    seed: int,
    seen: float,
    folder: pathlib.Path,
    more: Sequence[str] = (),
) -> None:
    """Measures a student and appends its line to OUT/results.jsonl, once."""
    if any((line["arm"], line["seed"]) == (arm, seed) for line in read(options.out)):
        return
    name = f"{folder.parent.name}-{folder.name}".removeprefix("runs-")
    line = {"arm": arm, "seed": seed, "seen": seen, **measure(options, folder, name, more)}
    with (options.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{arm}, seed {seed}: {line['accuracy']:.1%}, {line['tokens']:.1f} tokens", flush=True)


def run(options: argparse.Namespace) -> None:
    """Every seed that is missing."""
    options.out.mkdir(parents=True, exist_ok=True)
    measure(options, "tiny", "base")
    for seed in range(options.seeds):
        run_seed(options, seed)


def read(folder: pathlib.Path) -> list[dict]:
    path = folder / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval by Student's t."""
    if len(values) < 2:
        return f"{np.mean(values):.1f}"
    reach = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.1f} ± {reach:.1f}"


def by_arm(options: argparse.Namespace) -> dict[str, dict[int, dict]]:
    """Lines by arm and seed; the base is everybody's seed 0."""
    arms: dict[str, dict[int, dict]] = {"base": {0: measure(options, "tiny", "base") | {"seen": 0}}}
    for line in read(options.out):
        arms.setdefault(line["arm"], {})[line["seed"]] = line
    return arms


def table(options: argparse.Namespace) -> None:
    """Prints the comparison as Markdown and draws it."""
    arms = by_arm(options)
    print("| arm | seeds | greedy accuracy | sampled | greedy tokens | sampled tokens | "
          f"points above {AGAINST} | tokens against it | seen |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    against = arms.get(AGAINST, {})
    for arm, by_seed in arms.items():
        runs = list(by_seed.values())
        cells = [arm, str(len(runs))]
        for name, scale in (("accuracy", 100), ("sampled_accuracy", 100), ("tokens", 1),
                            ("sampled_tokens", 1)):  # fmt: skip
            cells.append(interval([scale * one[name] for one in runs]))
        both = sorted(by_seed.keys() & against.keys()) if arm not in ("base", AGAINST) else []
        pairs = [(by_seed[seed], against[seed]) for seed in both]
        cells.append(interval([100 * (a["accuracy"] - b["accuracy"]) for a, b in pairs])
                     if pairs else "")  # fmt: skip
        cells.append(interval([100 * (a["tokens"] / b["tokens"] - 1) for a, b in pairs]) + " %"
                     if pairs else "")  # fmt: skip
        cells.append(f"{np.mean([one['seen'] for one in runs]) / 1e6:.2f} M")
        print(f"| {' | '.join(cells)} |")
    draw(arms, options.out / "arms.png")


def draw(arms: dict[str, dict[int, dict]], path: pathlib.Path) -> None:
    """Accuracy against length: a dot per seed, a mark per mean, the bridge's stages joined."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for panel, kind in zip(panels, ("", "sampled_"), strict=True):
        path_x, path_y = [], []
        for number, (arm, by_seed) in enumerate(arms.items()):
            x = [one[f"{kind}tokens"] for one in by_seed.values()]
            y = [100 * one[f"{kind}accuracy"] for one in by_seed.values()]
            color = f"C{number % 10}"
            panel.scatter(x, y, s=8, color=color)
            panel.scatter(np.mean(x), np.mean(y), s=70, marker="X", color=color, label=arm)
            if arm == "base" or arm in ("1", "1 + 2", "1 + 2 + 3"):
                path_x.append(np.mean(x))
                path_y.append(np.mean(y))
        panel.plot(path_x, path_y, color="grey", linewidth=0.8, zorder=0)
        panel.set(
            title="sampled, temperature 1" if kind else "greedy", xlabel="tokens", xlim=(0, None)
        )
        panel.grid(alpha=0.3)
    panels[0].set(ylabel="accuracy, held out, %")
    panels[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """`run` or `table`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("run", "table"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bridge_arms"))
    parser.add_argument("--config", type=pathlib.Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:3])
    options = parser.parse_args()
    options.out = options.out.absolute()
    {"run": run, "table": table}[options.mode](options)


if __name__ == "__main__":
    main()
