"""Useful tokens per second of our rollout when every 40th token id is an end; `peers.py` starts it.

128 slots are refilled as completions end (`rollout.max-concurrent`), each with its own prompt
cache.
"""

import dataclasses
import json
import pathlib
import resource
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cotjax.startup import (
    compile_soon,  # noqa: E402
    use_large_pages,  # noqa: E402
)

if __name__ == "__main__":
    use_large_pages()
    compile_soon()

import grpo_step  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from cotjax.parallel.mesh import use_cpu_cores  # noqa: E402
from cotjax.parallel.sharding import shard  # noqa: E402
from cotjax.rollout.generate import generate  # noqa: E402


def ragged(size: dict) -> dict:
    """Median over the counted rollouts; the first one compiles."""
    use_cpu_cores()
    shape = dataclasses.replace(
        grpo_step.SHAPES["tiny"], prompts=size["prompts"], new_tokens=size["new_tokens"]
    )
    stage = grpo_step.BenchmarkStage(grpo_step.make_config(shape, "float32"), shape)
    settings = dataclasses.replace(stage.sampling, rows=128, share=1)
    ids = jnp.arange(size["vocab"])
    table = jnp.stack([ids % size["end_every"] == 0, ids >= 0]).astype(jnp.int8)
    prompts = shard(stage.mesh, next(grpo_step.RandomPrompts(shape))[0])
    speeds = []
    for number in range(size["steps"] + 1):
        began = time.perf_counter()
        out = generate(
            stage.student.policy,
            stage.state.params,
            prompts,
            jax.random.key(number),
            settings=settings,
            stop_table=table,
        )
        useful = int(out.mask.sum())
        speeds.append(useful / (time.perf_counter() - began))
    return {"useful_tok_s": statistics.median(speeds[1:])}


if __name__ == "__main__":
    numbers = ragged(json.loads(sys.argv[1]))
    numbers["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(numbers))
