"""SmolLM2-135M-Instruct through the bridge, and base and stages on the same held-out questions.

    python benchmarks/smollm2_bridge.py run --out smollm2 --gsm8k DIR --failures FILE
    python benchmarks/smollm2_bridge.py table --out smollm2

DIR holds GSM8K's train.jsonl and test.jsonl, FILE is BRIDGE's stage3_error_samples.json; of all
three only questions with short solutions are used, see `LONGEST`. Everything in OUT is left alone
if it is there, and a run that was stopped is resumed; so the command can be killed at any time and
given again. `table` prints what there is.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).parents[1]
STAGES = ("1-reconstruct", "2-grpo", "3-rewrite")
# Characters of question and solution together; sets what a step costs and fits the rows.
LONGEST = {"train.jsonl": 340, "test.jsonl": 450, "failures.jsonl": 1200}
# How base and stages are measured, by data set: config flags.
MEASURED = {
    "problems": ["--rollout.max-prompt-tokens=128", "--rollout.max-new-tokens=128"],
    "gsm8k": ["--rollout.max-prompt-tokens=224", "--rollout.max-new-tokens=128"],
}
ALIKE = ["--eval.max-new-tokens=160", "--eval.max-prompt-tokens=0", "--eval.samples=1"]
ALIKE += ["--eval.batch-size=64", "--data.on-bad-record=skip"]


def write_short(rows: list[dict], solution: Callable[[dict], str], path: pathlib.Path) -> None:
    """Keeps the rows that are short enough."""
    if path.exists():
        return
    short = [row for row in rows if len(row["question"] + solution(row)) <= LONGEST[path.name]]
    path.write_text("".join(json.dumps(row) + "\n" for row in short), encoding="utf-8")


def prepare(options: argparse.Namespace) -> None:
    """Writes train.jsonl, test.jsonl and failures.jsonl into OUT."""
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("train.jsonl", "test.jsonl"):
        lines = (options.gsm8k / name).read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        write_short(rows, lambda row: row["answer"], options.out / name)
    failures = json.loads(options.failures.read_text("utf-8"))
    write_short(failures, lambda row: row["teacher_cot"], options.out / "failures.jsonl")


def python(options: argparse.Namespace, *words: object) -> None:
    """A module of cotjax in OUT, so that the configs' paths are those of OUT; logs into it."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(options.out / "compiled"), "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", *map(str, words)]
    began = time.monotonic()
    print(" ".join(argv[1:]), flush=True)
    subprocess.run(argv, cwd=options.out, env=cache | os.environ, check=True)
    print(f"{time.monotonic() - began:.0f} seconds", flush=True)


def measure(options: argparse.Namespace, data: str, name: str) -> None:
    """Writes OUT/DATA-NAME.json, the numbers of the base or of a stage."""
    target = options.out / f"{data}-{name}.json"
    if target.exists():
        return
    flags = [*MEASURED[data], *ALIKE, f"--eval.problems={options.questions}"]
    checkpoint = pathlib.Path("runs", data, name)
    if name == "base":
        checkpoint = "smollm2-135m"
        flags += ["--config", ROOT / "configs" / f"smollm2_bridge_{data}.toml", "--lora.rank=0"]
    python(options, "cotjax.evaluate", "--checkpoint", checkpoint, "--out", target.name, *flags)


def run(options: argparse.Namespace) -> None:
    """Per data set: the base measured, the bridge, the stages measured."""
    prepare(options)
    for data in options.data:
        measure(options, data, "base")
        folder = options.out / "runs" / data
        if not (folder / "result.json").exists():
            config = ROOT / "configs" / f"smollm2_bridge_{data}.toml"
            resume = ["--resume"] if (folder / "config.toml").exists() else []
            python(options, "cotjax.train", "--config", config, "--name", data, *resume)
        for stage in STAGES:
            if (folder / stage / "result.json").exists():
                measure(options, data, stage)


def table(options: argparse.Namespace) -> None:
    """Prints what was measured, as Markdown."""
    print("| data | after | greedy accuracy | sampled | well-formed | cut off | greedy tokens |")
    print("|---|---|---|---|---|---|---|")
    for data in options.data:
        for name in ("base", *STAGES):
            path = options.out / f"{data}-{name}.json"
            if not path.exists():
                continue
            got = json.loads(path.read_text("utf-8"))
            low, high = got["accuracy_low"], got["accuracy_high"]
            cells = [data, name, f"{got['accuracy']:.1%} ({low:.1%} to {high:.1%})"]
            cells += [f"{got[k]:.1%}" for k in ("sampled_accuracy", "well_formed", "truncated")]
            cells.append(f"{got['tokens']:.1f}")
            print(f"| {' | '.join(cells)} |")


def main() -> None:
    """`run` or `table`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("run", "table"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("smollm2"))
    parser.add_argument("--gsm8k", type=pathlib.Path, default=pathlib.Path("gsm8k"))
    parser.add_argument("--failures", type=pathlib.Path, default=pathlib.Path("failures.json"))
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--data", nargs="+", choices=MEASURED, default=[*MEASURED])
    options = parser.parse_args()
    options.out = options.out.absolute()
    {"run": run, "table": table}[options.mode](options)


if __name__ == "__main__":
    main()
