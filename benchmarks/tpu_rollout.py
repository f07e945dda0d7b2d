r"""Compiles the sampler of a real model for TPU slices, on a machine without TPUs.

    pip install -e '.[aot]'
    python benchmarks/tpu_rollout.py                   # Qwen2.5-3B, 512 rows × 1,024 tokens
    python benchmarks/tpu_rollout.py --topology v5e:4x4 --mesh 8,1,2 \
        --rollout.max-concurrent=256 --json

Weights exist by shape only, laid out as `parallel.for_rollout` does before a rollout, which gathers
them over `fsdp`: only how many devices split the batch and how many split heads makes a difference.
`--rollout.max-concurrent` below the number of completions is refill: fewer slots, which take the
next completion when theirs ends. For each mesh: memory per device against the chip's (weights are
its arguments, caches its temporaries), and what a turn of the decoding loop costs on each device:
the operations of its matrix products for one token of every row, as if all parts of the cache were
read, the MiB of arrays that are written again in another order (a cache should not be among them),
and its collectives by kind with the MiB of their results.
"""

import hlo
import jax
import jax.numpy as jnp
import tpu

from cotjax import config as configs
from cotjax.interfaces import PromptBatch
from cotjax.parallel.sharding import (
    batched,
    check_heads,
    replicated,
    rollout_formats,
    rollout_shardings,
)
from cotjax.rollout.engine import generate
from cotjax.rollout.plan import make_plan
from cotjax.student.generate import rollout_sampling

FLAGS = ("--rollout.max-prompt-tokens=512", "--rollout.max-new-tokens=1024")


def abstract_rollout(config: configs.Config, shape_file, mesh: jax.sharding.Mesh):
    """(policy, parameters, prompts, key, settings), all arrays by shape only."""
    policy, params = tpu.abstract_policy(config.model, shape_file, mesh)
    shape = policy.bind(params).shape
    check_heads(mesh, shape.num_heads, shape.num_kv_heads)
    formats = rollout_formats(params, config.model.compute_dtype)
    params = jax.tree.map(lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, to), params, formats)
    rollout = config.rollout
    size = rollout.prompts, rollout.max_prompt_tokens
    prompts = PromptBatch(
        *(jax.ShapeDtypeStruct(size, kind, sharding=batched(mesh)) for kind in (jnp.int32, bool)),
        jax.ShapeDtypeStruct(size[:1], jnp.int32, sharding=batched(mesh)),
    )
    key = tpu.placed(jax.eval_shape(lambda: jax.random.key(0)), replicated(mesh))
    settings = rollout_sampling(rollout, eos_id=0, pad_id=0)
    return policy, tpu.placed(params, rollout_shardings(mesh, params)), prompts, key, settings


def measure(topology: str, sizes: tuple[int, ...], config: configs.Config, shape_file) -> dict:
    """A row of the table."""
    mesh = tpu.slice_mesh(topology, *sizes)
    policy, params, prompts, key, settings = abstract_rollout(config, shape_file, mesh)
    lowered = generate.lower(policy, params, prompts, key, settings=settings)
    compiled, program, seconds = tpu.compile_for_tpu(lowered)
    plan = make_plan(len(prompts.tokens), policy.lanes, settings)
    products, moved = hlo.products(program), hlo.collectives(program)
    # With refill there is a narrower loop for the last rows too; the first has most products.
    loop = max(filter(None, products), key=lambda name: products[name])
    return tpu.memory_row(topology, mesh, compiled) | {
        "rows": plan.lanes * plan.slots * plan.share,
        "completions": plan.lanes * plan.jobs * plan.share,
        "prompt_tokens": prompts.tokens.shape[1],
        "new_tokens": settings.max_new_tokens,
        "token_gflop": round(products[loop] / 1e9, 1),
        "token_copies_mib": round(hlo.copies(program).get(loop, 0) / 2**20, 1),
        "token_collectives": tpu.in_mib(moved.get(loop, {})),
        "prefill_tflop": round(products.get("", 0) / 1e12, 2),
        "prefill_collectives": tpu.in_mib(moved.get("", {})),
        "compile_s": round(seconds, 1),
    }


def main() -> None:
    flags = tpu.parser(__doc__)
    flags.add_argument(
        "--mesh",
        action="append",
        type=lambda text: tuple(map(int, text.split(","))),
        help="data,fsdp,tensor; -1 = the devices that are left; may be repeated",
    )
    args, flags = flags.parse_known_args()
    given = ["--config", args.config, "--data.path=unread.jsonl", *FLAGS, *flags]
    config = configs.load(given)
    rows = (
        measure(topology, sizes, config, args.shape)
        for topology in args.topology or tpu.TOPOLOGIES
        for sizes in args.mesh or [(-1, 1, 1), (-1, 1, 2)]
    )
    tpu.show(rows, as_json=args.json)


if __name__ == "__main__":
    main()
