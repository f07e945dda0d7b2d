"""A plan beside the truth: its memory and its step time, and those of the run on this CPU.

    python benchmarks/plan_truth.py                     # three on 8 devices of this CPU, two on one
    python benchmarks/plan_truth.py --shape sft --devices 1

Each run, of random weights, is planned (`python -m cotjax.plan --topology cpu:N`) and then
made, twice: small, and as large as it is meant. What the second needs more than the first is
compared, so that Python, JAX and its compiler, which both need, do not count: the plan's peak times
the devices, which share this machine's memory, with the peak of the process's resident set. Of the
runs on one device, tiny and SmolLM2's shape, only the seconds count: they need less than compiling
does. Seconds are those of a step once its programs are compiled; a plan's are what it takes at
least, by rates that it measures, so nothing else should run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cotjax.models.formats.locate import resolve

GIB = 2**30
MODEL = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_hidden_layers": 8,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}
# Models that are not MODEL: None is the built-in student.
MODELS: dict[str, dict[str, Any] | None] = {
    "tiny": None,
    "smollm2": MODEL
    | {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
    | {"num_hidden_layers": 30, "vocab_size": 49152},
}
TIMED = ("tiny", "smollm2")  # on one device; the others on 8
# 8 devices that share 2 cores wait for each other longer than XLA takes for a deadlock.
PATIENCE = (
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200"
)
# Blocks that malloc keeps for the next step, as the trainer tells it to, are not what is needed.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
EVALUATION = ("--eval.problems=8", "--eval.samples=0", "--eval.max-new-tokens=8")
# Flags of every run of a shape, of the small one (not where time counts), of the large one.
SHAPES = {
    "sft": (
        ("--stage=sft", "--steps=3"),
        ("--batch.size=8", "--batch.sequence-length=384"),
        ("--batch.size=16", "--batch.sequence-length=1024"),
    ),
    "grpo": (
        ("--stage=grpo", "--steps=3", "--rollout.group-size=8"),
        ("--rollout.prompts=8", "--rollout.max-new-tokens=16"),
        ("--rollout.prompts=32", "--rollout.max-new-tokens=128"),
    ),
    "split": (
        ("--stage=sft", "--steps=3", "--mesh.data=1", "--mesh.fsdp=-1", "--model.remat=full"),
        ("--batch.size=8", "--batch.sequence-length=384"),
        ("--batch.size=32", "--batch.sequence-length=1024"),
    ),
    "tiny": (
        ("--stage=grpo", "--steps=4"),
        (),
    ),
    "smollm2": (
        ("--stage=grpo", "--steps=3", "--rollout.group-size=8", "--policy.micro-batch=1"),
        ("--rollout.prompts=4", "--rollout.max-new-tokens=64"),
    ),
}


def model_flags(shape: str, place: Path) -> tuple[str, ...]:
    """Flags of a shape's model; its folder, for random weights and the built-in tokenizer."""
    model = MODELS.get(shape, MODEL)
    if model is None:
        return ()
    folder = place / f"{shape}_model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(resolve("tiny") / name, folder)
    return f"--model.path={folder}", "--model.init=random"


def command(*words: str, devices: int) -> tuple[str, int]:
    """(what a command of cotjax prints, bytes of its peak resident set)."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {PATIENCE}"
    environment |= GIVEN_BACK if devices > 1 else {}
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], stdout=out, env=environment, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)
        out.seek(0)
        text = out.read()
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise SystemExit(f"{' '.join(words)} failed")
    return text, usage.ru_maxrss * 1024


def planned(flags: tuple[str, ...], devices: int) -> dict[str, Any]:
    """Peak bytes of all devices together, and seconds of a step at least."""
    text, _ = command("cotjax.plan", f"--topology=cpu:{devices}", "--json", *flags, devices=devices)
    (stage,) = json.loads(text)["stages"]
    peak = max(one["total"] for one in stage["memory"].values())
    return {"bytes": peak * devices, "seconds": stage["step_seconds"]}


def ran(flags: tuple[str, ...], devices: int, folder: Path) -> dict[str, Any]:
    """Peak bytes of the process, and seconds of its last step."""
    shutil.rmtree(folder, ignore_errors=True)
    where = f"--output={folder.parent}", f"--name={folder.name}"
    _, peak = command("cotjax.train", *flags, *where, devices=devices)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step_s"] for row in rows if "step_s" in row]
    return {"bytes": peak, "seconds": steps[-1]}


def memory(plans: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, float]:
    """What a large plan and run need more than a small one."""
    plan, run = (large["bytes"] - small["bytes"] for small, large in (plans, runs))
    return {
        "planned_gib": round(plan / GIB, 3),
        "ran_gib": round(run / GIB, 3),
        "memory_ratio": round(plan / run, 3),
    }


def time(plan: dict[str, Any], run: dict[str, Any]) -> dict[str, float]:
    """Of a step."""
    return {
        "planned_s": round(plan["seconds"], 3),
        "ran_s": round(run["seconds"], 3),
        "time_ratio": round(run["seconds"] / plan["seconds"], 3),
    }


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--shape", action="append", choices=list(SHAPES), help="may be repeated")
    flags.add_argument("--devices", type=int, help="of this CPU; default: 8, or 1 for two shapes")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for name in args.shape or SHAPES:
            shared, *sizes = SHAPES[name]
            devices = args.devices or (1 if name in TIMED else 8)
            whole = *model_flags(name, Path(place)), "--optimizer.warmup-steps=0"
            each = [(*shared, *whole, *EVALUATION, *size) for size in sizes]
            plans = [planned(one, devices) for one in each]
            runs = [ran(one, devices, Path(place) / "run") for one in each]
            found = time(plans[-1], runs[-1]) if name in TIMED else memory(plans, runs)
            print(json.dumps({"shape": name, "devices": devices} | found), flush=True)


if __name__ == "__main__":
    main()
