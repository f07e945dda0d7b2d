"""Plans of the papers' runs: students × methods × slices, compiled, into docs/plans.md.

    python docs/plans.py                         # all that is not in docs/results/plans.jsonl yet
    python docs/plans.py --student qwen2.5-3b --slice v5e-16
    python docs/plans.py --page                  # only write the page from what is there

Needs the extra [plan] and some hours of a CPU: each plan compiles its stages' programs, in a
process of its own. It can be stopped at any time; what is planned is not planned again.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "results" / "plans.jsonl", ROOT / "docs" / "plans.md"
SHAPES = ROOT / "configs" / "shapes"
STUDENTS = ("qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b", "llama-3.1-8b")
SLICES = {
    "v5e-8": "v5e:2x4",
    "v5e-16": "v5e:4x4",
    "v5p-8": "v5p:2x2x1",
    "v6e-8": "v6e:2x4",
    "v6e-64": "v6e:8x8",
}
TEACHER = "qwen2.5-14b"
# Files that are not there: the built-in problems stand for them, in number as GSM8K's.
DATA = "--data.path=train.jsonl", "--data.eval-path=test.jsonl"
METHODS = {
    "BRIDGE": (*("--config", "configs/bridge_qwen2.5-3b_gsm8k.toml"), *DATA),
    "CLPD": (
        *(*("--config", "configs/clpd_qwen2.5-3b_gsm8k.toml"), *DATA),
        f"--teachers.paths={SHAPES / TEACHER}",
    ),
}
# Tried in this order: the fewest devices to one example with which the batch can be shared.
TENSOR = (1, 2, 4, 8)
HEADER = """\
# Plans of the papers' runs

Whether a run fits a slice, how long a step takes at least, and the chip-hours of the whole run,
evaluations and mining included. Each line is `cotjax plan` of a model folder that has only a
config.json; nothing ran on a TPU. BRIDGE is `configs/bridge_qwen2.5-3b_gsm8k.toml` (LoRA, its three
stages in order, 16 prompts × 8 completions), CLPD `configs/clpd_qwen2.5-3b_gsm8k.toml` (all
parameters, a teacher of 14B). Only the axes of the mesh are chosen for each slice: `tensor` is the
least of 1, 2, 4 and 8 with which the devices can share a batch. [Plan a run](planning.md) says what
the numbers are.

```text
python docs/plans.py --page      # this page, from docs/results/plans.jsonl
```
"""


def main() -> None:
    """Plans what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=STUDENTS, action="append")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--slice", choices=SLICES, action="append")
    parser.add_argument("--page", action="store_true", help="plan nothing")
    args = parser.parse_args()
    if not args.page:
        wanted = itertools.product(
            args.slice or SLICES, args.method or METHODS, args.student or STUDENTS
        )
        for name, method, student in wanted:
            if (student, method, name) not in {_key(row) for row in read()}:
                row = plan(student, method, name)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{student}, {method}, {name}: {row['says']}", flush=True)
    PAGE.write_text(page(read()), encoding="utf-8")


def read() -> list[dict[str, Any]]:
    """What was planned."""
    return [json.loads(line) for line in RESULTS.open(encoding="utf-8")] if RESULTS.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["student"], row["method"], row["slice"]


def plan(student: str, method: str, name: str) -> dict[str, Any]:
    """One plan, with the first number of tensor devices that the batch and the heads allow."""
    row: dict[str, Any] = {"student": student, "method": method, "slice": name}
    began, refusals = time.time(), []
    for tensor in TENSOR:
        command = [
            *(sys.executable, "-m", "cotjax.plan", "--topology", SLICES[name], "--json"),
            *(*METHODS[method], f"--model.path={SHAPES / student}", f"--mesh.tensor={tensor}"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode in (0, 3):
            found = json.loads(done.stdout)
            stages = [
                {"stage": one["stage"], "step_seconds": one["step_seconds"], "steps": one["steps"]}
                for one in found["stages"]
            ]
            return row | {
                "tensor": tensor,
                "fits": found["fits"],
                "says": found["verdict"],
                "chip_hours": found["chip_hours"],
                "stages": stages,
                "seconds": round(time.time() - began),
            }
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        if not lines:
            sys.exit(f"{student}, {method}, {name}:\n{done.stderr}")
        refusals.append(lines[-1].removeprefix("error: "))
    return row | {"fits": None, "says": refusals[0], "seconds": round(time.time() - began)}


def page(rows: list[dict[str, Any]]) -> str:
    """The page: a table for each method."""
    parts = [HEADER]
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        if own:
            parts += [f"\n## {method}\n\n", *_table(own)]
    return "".join(parts)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| student | slice | fits | a step of each stage, s at least | chip-hours |\n"
    yield "|---|---|---|---|---|\n"
    order = {key: place for place, key in enumerate(itertools.product(STUDENTS, SLICES))}
    for row in sorted(rows, key=lambda row: order[row["student"], row["slice"]]):
        yield "| " + " | ".join(_cells(row)) + " |\n"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    name = row["student"], row["slice"]
    if row["fits"] is None:
        return *name, f"cannot be split: {row['says']}", "", ""
    steps = ", ".join(f"{one['step_seconds']:.3g}" for one in row["stages"])
    if not row["fits"]:
        return *name, f"no: {row['says'].partition(': ')[2]}", steps, ""
    needs = row["says"].partition("at most ")[2].partition(" GiB")[0]
    return *name, f"yes, {needs} GiB (tensor {row['tensor']})", steps, f"{row['chip_hours']:,.1f}"


if __name__ == "__main__":
    main()
