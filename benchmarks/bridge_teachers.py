"""BRIDGE with CLPD's teachers: which of them writes the rationales of stages 1 and 3.

    python benchmarks/tiny_teachers.py --out teachers
    python benchmarks/bridge_teachers.py run --teachers teachers --out bridge_teachers --seeds 3
    python benchmarks/bridge_teachers.py table --out bridge_teachers

Questions of 2 to 6 steps are five buckets. "strongest": the large teacher solves them all. "by
schedule": the schedule `step`, T_⌈mN/M⌉ of N teachers for bucket m of M. Both answer each
question; a right answer is kept. Then the same bridge (configs/tiny_bridge_arms.toml) for every
seed, measured on the built-in held-out problems. `run` skips what is there.
"""

import argparse
import json
import math
import pathlib
import random

import bridge_arms

TEACHERS, BUCKETS = ("small", "medium", "large"), (2, 3, 4, 5, 6)
NAMED = {
    steps: TEACHERS[math.ceil(bucket * len(TEACHERS) / len(BUCKETS)) - 1]
    for bucket, steps in enumerate(BUCKETS, 1)
}
ARMS = {"strongest": dict.fromkeys(BUCKETS, TEACHERS[-1]), "by schedule": NAMED}
HELD_OUT = ("--data.source=problems", "--data.path=")


def solutions(options: argparse.Namespace, teacher: str, steps: int) -> list[dict]:
    """A teacher's right answers to the questions of one bucket."""
    path = options.out / "rationales" / f"{teacher}-{steps}.jsonl"
    if not path.exists():
        bridge_arms.python(
            options, "cotjax.rationales", "--config", bridge_arms.alone(options, "grpo"),
            f"--out={path}", "--rationales.writer=model",
            f"--model.path={options.teachers / teacher}",
            f"--data.min-steps={steps}", f"--data.max-steps={steps}",
            f"--rationales.questions={options.questions}", "--rationales.max-new-tokens=128",
        )  # fmt: skip
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_data(options: argparse.Namespace, arm: str) -> pathlib.Path:
    """The arm's training data, in an order that is the same for every arm."""
    path = options.out / f"{arm.replace(' ', '_')}.jsonl"
    rows = [row for steps, teacher in ARMS[arm].items()
            for row in solutions(options, teacher, steps)]  # fmt: skip
    rows.sort(key=lambda row: random.Random(row["question"]).random())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(options: argparse.Namespace) -> None:
    """Both arms, seed by seed."""
    options.out.mkdir(parents=True, exist_ok=True)
    data = {arm: write_data(options, arm) for arm in ARMS}
    for seed in range(options.seeds):
        for arm, path in data.items():
            flags = ["--data.source=jsonl", f"--data.path={path}", f"--seed={seed}"]
            name = f"{path.stem}-{seed}"
            folder = bridge_arms.train(options, name, options.config, *flags)
            for number, stage in enumerate(bridge_arms.STAGES, 1):
                if (folder / stage / "result.json").exists():  # there were failures to rewrite
                    name = f"{arm}, stage {number}"
                    seen = bridge_arms.tokens(folder / stage)
                    bridge_arms.keep(options, name, seed, seen, folder / stage, HELD_OUT)


def table(options: argparse.Namespace) -> None:
    """How much the two data sets share, and the arms' numbers."""
    one, other = (
        {row["question"]: row["answer"] for row in map(json.loads, path.open(encoding="utf-8"))}
        for path in (options.out / f"{arm.replace(' ', '_')}.jsonl" for arm in ARMS)
    )
    shared = one.keys() & other.keys()
    same = sum(one[question] == other[question] for question in shared)
    print(f"questions: {len(one)} and {len(other)}, in both {len(shared)}, same text {same}\n")
    print("| rationales | seeds | greedy accuracy | sampled | tokens |", "|---|---|---|---|---|",
          sep="\n")  # fmt: skip
    lines = bridge_arms.read(options.out)
    for arm in sorted({line["arm"] for line in lines}):
        runs = [line for line in lines if line["arm"] == arm]
        cells = [
            bridge_arms.interval([scale * each[name] for each in runs])
            for name, scale in (("accuracy", 100), ("sampled_accuracy", 100), ("tokens", 1))
        ]
        print(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")


def main() -> None:
    """`run` or `table`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("run", "table"))
    parser.add_argument("--teachers", type=pathlib.Path, default=pathlib.Path("teachers"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bridge_teachers"))
    parser.add_argument("--config", type=pathlib.Path, default=bridge_arms.CONFIG)
    parser.add_argument("--questions", type=int, default=400, help="of each number of steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2)
    options = parser.parse_args()
    options.out, options.teachers = options.out.absolute(), options.teachers.absolute()
    {"run": run, "table": table}[options.mode](options)


if __name__ == "__main__":
    main()
