"""`python benchmarks/accelerator.py`: two minutes on whatever accelerator is present.

It says whether the device computes what a CPU does (one GRPO step of the built-in student in
float32: tokens, log-probabilities, loss, norm of the gradient), and how fast a step, a rollout and
an update are and how much memory they take: a tiny model, Qwen2.5-0.5B's shape in bfloat16, and
that with matrices in int8, with drafts, and with attention by matrix products. The kernel that the
device has for attention, cuDNN's or the TPU's, stands beside those too (`attention.py`): values,
gradients, time and memory. Each line is a process of its own; one that fails says so and the
others go on. `--out FILE` keeps the numbers, `--cpu` tries it where there is none.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
STEP, ATTENTION = HERE / "grpo_step.py", HERE / "attention.py"
# What is compared: tokens exactly, numbers to a share of the CPU's.
TOLERANCE = {"logp": 1e-3, "loss": 5e-3, "grad_norm": 5e-3}
ONE_STEP = """
import json, sys, tempfile
import jax
jax.config.update("jax_default_matmul_precision", "highest")
from cotjax import Config
from cotjax.config.plugins import open_stage
from cotjax.parallel.mesh import run_mesh
sizes = {"prompts": 8, "group_size": 4, "max_new_tokens": 64}
config = Config.for_stage("grpo", rollout=sizes, policy={"micro_batch": 0}, mesh={"data": 1},
                          eval={"problems": 1})
stage = open_stage(config, run_mesh(config.mesh))
stage.prepare(__import__("pathlib").Path(tempfile.mkdtemp()))
state = stage.state
work = stage.next_step(state.params, 0)
groups = work.batch[0]
found = {"tokens": groups.completion.tolist(), "logp": groups.logp_sampler.ravel().tolist()}
state, metrics = stage.update(state, work.batch)
for name in ("loss", "grad_norm"):
    total, count = metrics[name]
    found[name] = [float(total) / float(count)]
print(json.dumps(found | {"device": jax.devices()[0].device_kind}))
"""


def one_step(**environment: str) -> dict:
    """A step's tokens and numbers, computed by a process with these variables."""
    return run([sys.executable, "-c", ONE_STEP], **environment)


def run(command: list[str], **environment: str) -> dict:
    """The last line that a process prints, which is JSON; what it said where it fails."""
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]}
    return json.loads(lines[-1])


def differences(one: dict, other: dict) -> dict[str, float]:
    """Per name the largest difference, as a share of the largest number; of tokens their share."""
    tokens = [a != b for a, b in zip(flat(one["tokens"]), flat(other["tokens"]), strict=True)]
    found = {"tokens": sum(tokens) / len(tokens)}
    for name in TOLERANCE:
        pairs = list(zip(one[name], other[name], strict=True))
        scale = max(max(abs(a), abs(b)) for a, b in pairs) or 1.0
        found[name] = max(abs(a - b) for a, b in pairs) / scale
    return found


def flat(rows: list) -> list:
    """The numbers of nested lists."""
    return [one for row in rows for one in flat(row)] if isinstance(rows[0], list) else rows


def agrees(found: dict[str, float]) -> bool:
    """Whether tokens are the same and numbers within their tolerance."""
    return not found["tokens"] and all(found[name] <= most for name, most in TOLERANCE.items())


def measured(shape: str, *flags: str) -> dict:
    """The numbers of `grpo_step.py`."""
    began = time.perf_counter()
    found = run([sys.executable, str(STEP), f"--shape={shape}", "--repeats=3", "--json", *flags])
    return {"flags": [shape, *flags], "seconds": round(time.perf_counter() - began, 1), **found}


SHOWN = ("step_s", "rollout_tok_s", "update_tok_s", "rollout_roofline", "update_roofline",
         "peak_device_gib", "start_to_first_step_s")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the numbers")
    parser.add_argument("--cpu", action="store_true", help="the tiny model alone, on a CPU")
    args = parser.parse_args()
    here, cpu = one_step(), one_step(JAX_PLATFORMS="cpu")
    for name, found in (("this device", here), ("the CPU", cpu)):
        if "failed" in found:
            print(f"{name}: {found['failed']}")
            return 1
    if here["device"] == cpu["device"] and not args.cpu:
        print("There is no accelerator here: JAX finds a CPU alone. --cpu measures that.")
        return 1
    apart = differences(here, cpu)
    equal = agrees(apart)
    shown = ", ".join(f"{name} {value:.1e}" for name, value in apart.items())
    print(f"{here['device']} beside a CPU, one step: {'agrees' if equal else 'DIFFERS'} ({shown})")
    large = ("qwen2.5-0.5b", "--dtype=bfloat16")
    runs = [measured("tiny")]
    if not args.cpu:
        runs += [measured(*large), measured(*large, "--weights-dtype=int8")]
        runs += [measured(*large, "--draft-tokens=4"), measured(*large, "--attention=dense")]
    print(f"\n| | {' | '.join(SHOWN)} |\n|---|{'---|' * len(SHOWN)}")
    for one in runs:
        label = " ".join(one["flags"])
        cells = [one["failed"]] if "failed" in one else [f"{one[name]:,}" for name in SHOWN]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    kernel = {} if args.cpu else run([sys.executable, str(ATTENTION), "--json"])
    shown = kernel.get("table", kernel.get("failed", "not tried on a CPU"))
    print(f"\nAttention by a kernel:\n{shown}")
    if args.out:
        found = {"apart": apart, "runs": runs, "attention": kernel}
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    good = equal and all(row["agrees"] for row in kernel.get("rows", ()))
    return 0 if good and not any("failed" in one for one in (*runs, kernel)) else 1


if __name__ == "__main__":
    sys.exit(main())
