"""A distillation step with two teachers beside TRL's `GKDTrainer` and beside dense logits.

    python benchmarks/distill_peers.py --trl-python TRL/bin/python --out distill.jsonl

Same sizes, float32, random weights, forward KL from the mean of two teachers, AdamW; every repeat
starts each system once, in a process of its own. A ratio above 1 says that ours is better. The last
lines are the store: how fast a teacher's top 16 are written beside the teacher's plain pass.
"""

import argparse
import json
import pathlib
import statistics
import sys

import peers

HERE = pathlib.Path(__file__).resolve().parent
MODEL = {"hidden": 256, "layers": 4, "heads": 8, "kv_heads": 4, "head_dim": 32, "mlp": 688}
SHAPES = {
    "tiny, V 4,096": MODEL | {"vocab": 4096, "rows": 16, "length": 256},
    "tiny, V 49,152": MODEL | {"vocab": 49152, "rows": 8, "length": 256},
}
NAMES = {"ours": "cotjax", "dense": "dense", "trl": "TRL"}
ROWS = (
    ("step_tok_s", "whole step, tokens/s", True),
    ("start_to_first_step_s", "start to first step, s", False),
    ("peak_rss_gib", "peak RSS, GiB", False),
)


def command(system: str, size: dict, trl_python: str) -> list[str]:
    """How a system is started on a shape."""
    text = json.dumps(size | {"mode": system})
    if system == "trl":
        return [trl_python, str(HERE / "peers" / "trl_distill.py"), text]
    return [sys.executable, str(HERE / "distill_step.py"), text]


def better(ours: float, other: float, more: bool) -> float:
    """How much better ours is; `more` says whether a larger number is better."""
    return ours / other if more else other / ours


def table(records: list[dict]) -> str:
    """Markdown: medians per shape and number, and what dense and TRL are to ours."""
    lines = [
        "| shape | | cotjax | dense | TRL | over dense | over TRL |",
        "|---|---|" + "---:|" * 5,
    ]
    for shape in dict.fromkeys(record["shape"] for record in records):
        for key, title, more in ROWS:
            median = {
                system: statistics.median(found)
                for system in NAMES
                if (found := [r[key] for r in records
                              if (r["shape"], r["system"]) == (shape, system)])
            }  # fmt: skip
            ratios = [
                f"{better(median['ours'], median[other], more):.2f}×"
                if {"ours", other} <= median.keys() else ""
                for other in ("dense", "trl")
            ]  # fmt: skip
            cells = [f"{median[system]:.4g}" if system in median else "" for system in NAMES]
            lines.append(f"| {shape} | {title} | " + " | ".join(cells + ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is asked for and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", required=True, help="interpreter that has TRL")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--systems", nargs="+", choices=NAMES, default=[*NAMES])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each system")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of a run")
    parser.add_argument("--examples", type=int, default=512, help="records of the store")
    parser.add_argument("--no-store", action="store_true", help="leave out the store")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, one per run")
    options = parser.parse_args()
    wanted = [(shape, system) for shape in options.shapes for _ in range(options.repeats)
              for system in options.systems]  # fmt: skip
    wanted += [] if options.no_store else [(shape, "store") for shape in options.shapes]
    records = []
    for shape, system in wanted:
        size = SHAPES[shape] | {"steps": options.steps, "examples": options.examples}
        numbers = peers.run(
            "trl" if system == "trl" else "ours", command(system, size, options.trl_python)
        )
        records.append({**numbers, "shape": shape, "system": system})
        print(json.dumps(records[-1]), file=sys.stderr, flush=True)
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
    print(table([record for record in records if record["system"] in NAMES]))
    for record in records:
        if record["system"] == "store":
            print(
                f"{record['shape']}: a store is written at {record['store_positions_s']:,.0f} "
                f"positions/s, {record['share_of_plain']:.0%} of the teacher's plain pass; "
                f"{record['bytes_per_position']:.0f} bytes each, "
                f"KL {record['kl_of_cache']:.1e} nats"
            )


if __name__ == "__main__":
    main()
