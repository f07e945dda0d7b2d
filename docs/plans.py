"""Plans of the papers' runs: students × methods × slices, into docs/plans.md.

    python docs/plans.py --estimate              # all that is not in docs/results/plans.jsonl yet
    python docs/plans.py --student qwen2.5-3b --slice v5e-16      # compiled
    python docs/plans.py --page                  # only write the page from what is there

Needs the extra [plan]. An estimate takes half a minute of a CPU; a compiled plan many minutes, all
of them days. Each is written down at once, so that the script can be stopped at any time; what is
there is not planned again, and what is compiled replaces what was estimated. Where the devices
cannot share a batch, the plan is of a larger one with as many fewer steps.
"""

import argparse
import contextlib
import io
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

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
    "BRIDGE": ("bridge_qwen2.5-3b_gsm8k.toml", DATA),
    "CLPD": ("clpd_qwen2.5-3b_gsm8k.toml", (*DATA, f"--teachers.paths={SHAPES / TEACHER}")),
}
# Tried in this order: the fewest devices to one example with which the batch can be shared.
TENSOR = (1, 2, 4, 8)
BATCH = 16  # rows of a batch where a config does not say
HEADER = """\
# Plans of the papers' runs

Whether a run fits a slice, how long a step takes at least, and the chip-hours of the whole run,
evaluations and mining included. Each line is `cotjax plan` of a model folder that has only a
config.json; nothing ran on a TPU. `compiled`: the TPU's compiler planned the memory and made the
programs whose work is counted. `estimate`: `cotjax plan --estimate`, which counts the programs'
equations and compiles nothing. [What it leaves out](planning.md#estimates) makes it low: read a fit
within a fifth of the memory as unknown.

BRIDGE is `configs/bridge_qwen2.5-3b_gsm8k.toml` (LoRA, its three stages in order, 16 prompts × 8
completions), CLPD `configs/clpd_qwen2.5-3b_gsm8k.toml` (all parameters, a teacher of 14B). Only the
axes of the mesh are chosen for each slice: `tensor` is the least of 1, 2, 4 and 8 with which the
devices can share a batch. If there is none, the plan is of the most tensor devices that the model's
heads allow, and of batches that the rest can share, with as many fewer steps: "64 for 8" rows (or
prompts) in each stage. [Plan a run](planning.md) says what the numbers are.

```text
python docs/plans.py --page                                # from docs/results/plans.jsonl
python docs/plans.py --student qwen2.5-3b --slice v5e-16   # compiles what is an estimate there
```

A slice's hosts, each a process of the run:

```python
>>> from cotjax.planning.machines import machines_of
>>> from cotjax.planning.topologies import parse_topology
>>> [machines_of(parse_topology(name)).hosts for name in ("v5e-8", "v5e-16", "v5p-8", "v6e-64")]
[1, 4, 1, 16]

```
"""


def main() -> None:
    """Plans what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", choices=STUDENTS, action="append")
    parser.add_argument("--method", choices=METHODS, action="append")
    parser.add_argument("--slice", choices=SLICES, action="append")
    parser.add_argument("--estimate", action="store_true", help="compile nothing")
    parser.add_argument("--page", action="store_true", help="plan nothing")
    args = parser.parse_args()
    if not args.page:
        wanted = itertools.product(
            args.slice or SLICES, args.method or METHODS, args.student or STUDENTS
        )
        for name, method, student in wanted:
            if _better(read(), (student, method, name), estimate=args.estimate):
                row = plan(student, method, name, estimate=args.estimate)
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{student}, {method}, {name}: {row['says']}", flush=True)
    PAGE.write_text(page(read()), encoding="utf-8")


def read() -> list[dict[str, Any]]:
    """What was planned."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["student"], row["method"], row["slice"]


def _better(rows: list[dict[str, Any]], key: tuple[str, str, str], *, estimate: bool) -> bool:
    """Whether a plan would say more than what is there."""
    there = [row for row in rows if _key(row) == key]
    return not any(estimate or not row["estimated"] or row["fits"] is None for row in there)


def plan(student: str, method: str, name: str, *, estimate: bool) -> dict[str, Any]:
    """One plan, with the first mesh that the batch and the heads allow; else of a larger batch."""
    row: dict[str, Any] = {"student": student, "method": method, "slice": name}
    row["estimated"] = estimate
    began, refusals = time.time(), []
    file, flags = METHODS[method]
    config = tomllib.loads((ROOT / "configs" / file).read_text("utf-8"))
    as_it_is = [(tensor, config, "") for tensor in TENSOR]
    with tempfile.TemporaryDirectory() as folder:
        for tensor, own, batch in itertools.chain(as_it_is, _larger(config, name)):
            Path(folder, file).write_text(tomli_w.dumps(own), "utf-8")
            words = [
                *("--topology", SLICES[name], "--json", "--config", str(Path(folder, file))),
                *(*flags, f"--model.path={SHAPES / student}", f"--mesh.tensor={tensor}"),
            ]
            status, out, told = _estimated(words) if estimate else _compiled(words)
            if status in (0, 3):
                return row | {
                    "tensor": tensor,
                    **({"batch": batch} if batch else {}),
                    **_told(json.loads(out)),
                    "seconds": round(time.time() - began),
                }
            lines = [line for line in told.splitlines() if line.startswith("error: ")]
            if not any(" share " in line or "not divide" in line for line in lines):
                sys.exit(f"{student}, {method}, {name}:\n{told}")
            refusals.append(lines[-1].removeprefix("error: "))
    return row | {"fits": None, "says": refusals[0], "seconds": round(time.time() - began)}


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """What a row has of a plan's JSON."""
    keys = "stage", "step_seconds", "steps"
    return {
        "fits": found["fits"],
        "says": found["verdict"],
        "chip_hours": found["chip_hours"],
        "stages": [{key: one[key] for key in keys} for one in found["stages"]],
    }


def _larger(config: dict[str, Any], name: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Tensor devices, config and batches in words, the least growth first."""
    from cotjax.planning.topologies import parse_topology

    for tensor in reversed(TENSOR):
        own, batches = grown(config, parse_topology(SLICES[name]).size // tensor)
        yield tensor, own, batches


def grown(config: dict[str, Any], shares: int) -> tuple[dict[str, Any], str]:
    """A config whose batches so many devices can share, with as many fewer steps; and in words.

    Example:
      >>> stage = {"stage": "sft", "steps": 100, "batch": {"size": 8}}
      >>> grown(stage, 32)
      ({'stage': 'sft', 'steps': 25, 'batch': {'size': 32}}, '32 for 8')
    """
    stages, said = [], []
    for stage in config.get("stages", [config]):
        policy = stage["stage"] in ("grpo", "rewrite")
        section, key = ("rollout", "prompts") if policy else ("batch", "size")
        rows = (config.get(section, {}) | stage.get(section, {}))[key]
        larger = math.ceil(rows / shares) * shares
        own = stage | {section: stage.get(section, {}) | {key: larger}}
        own["steps"] = math.ceil(stage["steps"] * rows / larger)
        if warmup := stage.get("optimizer", {}).get("warmup_steps"):
            fewer = math.ceil(warmup * rows / larger)
            own["optimizer"] = stage["optimizer"] | {"warmup_steps": fewer}
        if stage["stage"] == "rewrite":  # replays its rewrites in batches of rows
            replay = stage.get("batch", {}).get("size", BATCH)
            own["batch"] = stage.get("batch", {}) | {"size": math.ceil(replay / shares) * shares}
        stages.append(own)
        said.append(f"{larger} for {rows}")
    words = ", ".join(said)
    return (config | {"stages": stages}, words) if "stages" in config else (stages[0], words)


def _compiled(words: list[str]) -> tuple[int, str, str]:
    """(status, output, errors) of `cotjax plan`, in a process of its own."""
    command = [sys.executable, "-m", "cotjax.plan", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _estimated(words: list[str]) -> tuple[int, str, str]:
    """The same in this process, which has JAX already."""
    from cotjax.plan import main as planned

    out, told = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        status = planned([*words, "--estimate"])
    import jax  # `planned` has told it which devices

    jax.clear_caches()
    return status, out.getvalue(), told.getvalue()


def page(rows: list[dict[str, Any]]) -> str:
    """The page: a table for each method, with a line for every student and slice."""
    # Of several plans of one run the compiled one counts, and of equals the last.
    best = {_key(row): row for row in sorted(rows, key=lambda row: not row["estimated"])}
    parts = [HEADER]
    for method in METHODS:
        own = ((student, method, name) for student in STUDENTS for name in SLICES)
        parts += [f"\n## {method}\n\n", *_table([(key, best.get(key)) for key in own])]
    return "".join(parts)


def _table(rows: list[tuple[tuple[str, str, str], dict[str, Any] | None]]) -> Iterator[str]:
    yield "| student | slice | fits | a step of each stage, s at least | chip-hours | |\n"
    yield "|---|---|---|---|---|---|\n"
    for (student, _, name), row in rows:
        cells = _cells(row) if row else ("not planned yet", "", "", "")
        yield f"| {student} | {name} | {' | '.join(cells)} |\n"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["fits"] is None:
        return f"cannot be split: {row['says']}", "", "", ""
    steps = ", ".join(f"{one['step_seconds']:.3g}" for one in row["stages"])
    how = "estimate" if row["estimated"] else "compiled"
    if not row["fits"]:
        batches = f" ({row['batch']})" if "batch" in row else ""
        return f"no: {row['says'].partition(': ')[2]}{batches}", steps, "", how
    needs = row["says"].partition("at most ")[2].partition(" GiB")[0]
    batches = f"; {row['batch']}" if "batch" in row else ""
    fits = f"yes, {needs} GiB (tensor {row['tensor']}{batches})"
    return fits, steps, f"{row['chip_hours']:,.1f}", how


if __name__ == "__main__":
    main()
