r"""A GRPO step beside TRL (PyTorch) and Tunix, in one run on one machine.

    python benchmarks/peers.py --trl-python TRL/bin/python --tunix-python TUNIX/bin/python \
        --shapes tiny smol bridge --repeats 3 --out peers.jsonl
    python benchmarks/peers.py --trl-python … --tunix-python … --ragged

Each peer has an environment of its own (benchmarks/environments). All three get the same sizes,
float32, random weights and prompts, completions of exactly T tokens, AdamW and β = 0.04. Every
repeat starts each system once, one after the other, so that a slow minute touches all of them; the
table has the medians over repeats. A ratio above 1 says that ours is better than the best peer:
ours / peer for speeds, peer / ours for seconds and memory. The update is, for all three, the step
without its generation: rewards, the reference's scores, gradient and AdamW; its speed counts
B·G·(P + T) tokens, although ours computes a group's prompt once.

`--ragged`: 64 prompts × 8 completions whose lengths are geometric with a mean near 40, at most 256
tokens. Useful tokens are those up to each row's end. Peers decode a batch until its longest row
ends; ours refills 128 slots.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys

import grpo_step

HERE = pathlib.Path(__file__).resolve().parent
# Key of the numbers, its title, whether more is better.
ROWS = (
    ("rollout_tok_s", "rollout, tokens/s", True),
    ("update_tok_s", "update, tokens/s", True),
    ("step_s", "whole step, s", False),
    ("start_to_first_step_s", "start to first step, s", False),
    ("useful_tok_s", "useful tokens/s", True),
    ("peak_rss_gib", "peak RSS, GiB", False),
)
NAMES = {"ours": "cotjax", "trl": "TRL", "tunix": "Tunix"}


def sizes(name: str, *, steps: int, ragged: bool) -> dict:
    """What the runners need to know, as JSON values."""
    shape = grpo_step.SHAPES[name]
    if ragged:
        shape = dataclasses.replace(shape, prompts=64, new_tokens=256)
    model = shape.model
    return {
        "vocab": model.vocab_size,
        "hidden": model.hidden_size,
        "layers": model.num_layers,
        "heads": model.num_heads,
        "kv_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "mlp": model.mlp_size,
        "prompts": shape.prompts,
        "group": shape.group,
        "prompt_tokens": shape.prompt_tokens,
        "new_tokens": shape.new_tokens,
        "steps": steps,
        "end_every": 40,
        "ragged": ragged,
    }


def commands(name: str, args: argparse.Namespace) -> dict[str, list[str]]:
    """The command of each system for a shape."""
    ours = [str(HERE / "grpo_step.py"), "--json", f"--shape={name}", f"--repeats={args.steps}"]
    size = json.dumps(sizes(name, steps=args.steps, ragged=args.ragged))
    if args.ragged:
        ours = [str(HERE / "peers" / "ours_ragged.py"), size]
    return {
        "ours": [sys.executable, *ours],
        "trl": [args.trl_python, str(HERE / "peers" / "trl_step.py"), size],
        "tunix": [args.tunix_python, str(HERE / "peers" / "tunix_step.py"), size],
    }


def run(system: str, command: list[str]) -> dict:
    """The last line that a runner prints. No compile cache; the Python path is ours alone."""
    hidden = {"JAX_COMPILATION_CACHE_DIR"} | (set() if system == "ours" else {"PYTHONPATH"})
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{system} failed with status {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def same_update(numbers: dict, size: dict) -> dict:
    """Ours with the peers' definition of the update: the whole step without its rollout."""
    tokens = size["prompts"] * size["group"] * (size["prompt_tokens"] + size["new_tokens"])
    return {**numbers, "update_tok_s": tokens / (numbers["step_s"] - numbers["rollout_s"])}


def table(records: list[dict]) -> str:
    """Markdown: per shape and number the medians, and the ratio to the best peer.

    Args:
      records: each with `shape`, `system` (ours, trl, tunix) and the numbers of one run.
    """
    systems = [key for key in NAMES if any(record["system"] == key for record in records)]
    lines = [
        "| shape | | " + " | ".join(NAMES[key] for key in systems) + " | ratio |",
        "|---|---|" + "---:|" * (len(systems) + 1),
    ]
    for shape in dict.fromkeys(record["shape"] for record in records):
        here = [record for record in records if record["shape"] == shape]
        for key, title, more in ROWS:
            if key not in here[0]:
                continue
            values = {
                system: statistics.median(r[key] for r in here if r["system"] == system)
                for system in systems
            }
            peers = [value for system, value in values.items() if system != "ours"]
            ratio = values["ours"] / max(peers) if more else min(peers) / values["ours"]
            cells = [f"{value:.4g}" for value in values.values()] + [f"{ratio:.2f}×"]
            lines.append(f"| {shape} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", required=True, help="interpreter that has TRL")
    parser.add_argument("--tunix-python", required=True, help="interpreter that has Tunix")
    parser.add_argument("--shapes", nargs="+", choices=grpo_step.SHAPES, default=["tiny"])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each system")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a run")
    parser.add_argument("--ragged", action="store_true", help="rollouts of random length; tiny")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, one per run")
    args = parser.parse_args()
    records = []
    for name in ["tiny"] if args.ragged else args.shapes:
        for number in range(args.repeats):
            for system, command in commands(name, args).items():
                shown = "ragged" if args.ragged else name
                numbers = run(system, command)
                if system == "ours" and not args.ragged:
                    numbers = same_update(numbers, sizes(name, steps=args.steps, ragged=False))
                record = {**numbers, "shape": shown, "system": system, "run": number}
                records.append(record)
                print(json.dumps(record), file=sys.stderr, flush=True)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(record) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
