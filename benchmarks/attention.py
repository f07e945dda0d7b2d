"""Attention by a device's kernel beside matrix products: agreement, seconds and memory.

`python benchmarks/attention.py [--kind=cudnn] [--json]`: values and gradients of Qwen2.5-0.5B's
heads in bfloat16, for packed rows and for `prompt | completions`, with a prompt as long as a
completion (which cuDNN is given again for each) and a longer one (which it is not). The kernel
agrees if it is no further from float32 than twice what matrix products are, and a rounding; exits
with 1 if it does not, with `--json` the line says so.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from cotjax.models.attention import Causal, SharedPrompt
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement

SLACK = 1e-3  # of the largest number, beside which a rounding of bfloat16 is 4e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows of a batch: packed if there is no group, else `prompt | completion | …`."""

    name: str
    rows: int
    prompt: int
    group: int = 0
    own: int = 0
    heads: tuple[int, int, int] = (14, 2, 64)  # of queries, of keys, and their width

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt + self.group * self.own


CASES = (
    Case("packed rows of 2,048", 8, 2048),
    Case("prompt 256, 8 x 256", 8, 256, 8, 256),
    Case("prompt 1,024, 8 x 128", 8, 1024, 8, 128),
)


def own_kind() -> str:
    """The kernel of the device that is present."""
    return {"gpu": "cudnn", "tpu": "flash"}.get(jax.default_backend(), "cudnn")


def attend_of(case: Case, kind: str):
    """What mixes a case's tokens, and which of them count."""
    place = placement(make_mesh(1), attention=kind)
    if not case.group:
        segment = np.repeat([1, 2, 0], [case.length // 2, case.length // 3, case.length])
        segment = np.broadcast_to(segment[: case.length], (case.rows, case.length))
        return Causal(jnp.asarray(segment), placement=place), segment > 0
    padding = np.arange(case.rows)[:, None] * case.prompt // (2 * case.rows)
    mask = np.arange(case.prompt) >= padding
    real = np.concatenate([mask, np.ones((case.rows, case.group * case.own), bool)], axis=1)
    return SharedPrompt(jnp.asarray(mask), case.group, placement=place), real


def compiled(case: Case, kind: str, dtype: str):
    """A program that gives values and gradients, and its arguments."""
    attend, real = attend_of(case, kind)
    rng = np.random.default_rng(0)
    query, key, width = case.heads
    sizes = [(case.rows, case.length, heads, width) for heads in (query, key, key, query)]
    *inputs, pull = (
        jnp.asarray(rng.standard_normal(size, np.float32), jnp.bfloat16).astype(dtype)
        for size in sizes
    )
    pull = pull * real[..., None, None]

    @functools.partial(jax.value_and_grad, has_aux=True)
    def mixed(inputs):
        out, _ = attend(*inputs, None)
        return (out * pull).sum(dtype=jnp.float32), out * real[..., None, None]

    return jax.jit(mixed).lower(inputs).compile(), inputs


def measured(case: Case, kind: str, dtype: str, repeats: int) -> tuple[dict[str, float], list]:
    """Seconds and memory of a kind of attention, and its values and gradients."""
    program, inputs = compiled(case, kind, dtype)
    (_, out), slopes = jax.block_until_ready(program(inputs))
    found = [np.asarray(one, np.float32) for one in (out, *slopes)]
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(program(inputs))
        times.append(time.perf_counter() - began)
    memory = program.memory_analysis().temp_size_in_bytes / 2**20
    return {"ms": 1e3 * statistics.median(times), "temp_mib": round(memory, 1)}, found


def furthest(found: list, wanted: list) -> float:
    """The largest difference, as a share of the largest number of its array."""
    return max(float(abs(a - b).max() / abs(b).max()) for a, b in zip(found, wanted, strict=True))


def compare(case: Case, kind: str, repeats: int) -> dict:
    """A case by the kernel and by matrix products, both beside float32."""
    with jax.default_matmul_precision("highest"):
        _, wanted = measured(case, "dense", "float32", 1)
    row: dict = {"case": case.name, "kind": kind}
    for name in ("dense", kind):
        numbers, found = measured(case, name, "bfloat16", repeats)
        row[name] = {**numbers, "apart": furthest(found, wanted)}
    row["agrees"] = row[kind]["apart"] <= 2 * row["dense"]["apart"] + SLACK
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=("cudnn", "flash"), default=own_kind())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    args = parser.parse_args()
    rows = [compare(case, args.kind, args.repeats) for case in CASES]
    if args.json:
        device = jax.devices()[0].device_kind
        print(json.dumps({"device": device, "rows": rows, "table": table(rows)}))
        return 0
    print(table(rows))
    return 0 if all(row["agrees"] for row in rows) else 1


def table(rows: list[dict]) -> str:
    """The numbers as Markdown."""
    lines = [
        "| attention | kind | ms | temporaries, MiB | from float32 | |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in rows:
        verdict = "agrees" if row["agrees"] else "DIFFERS"
        for kind, said in (("dense", ""), (row["kind"], verdict)):
            numbers = row[kind]
            cells = [row["case"], kind, f"{numbers['ms']:.2f}", f"{numbers['temp_mib']:,}"]
            lines.append(f"| {' | '.join(cells)} | {numbers['apart']:.1e} | {said} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
