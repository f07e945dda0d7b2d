"""Compiles the GRPO update of a real model for TPU slices, on a machine without TPUs.

    pip install -e '.[aot]'
    python benchmarks/tpu_update.py                    # Qwen2.5-3B for v5e:4x4, v5p:2x2x2, v6e:4x4
    python benchmarks/tpu_update.py --topology v5e:4x4 --json

Weights exist by shape only. For each slice: memory per device against the chip's, operations that
the compiler counts, collectives by kind with the bytes that each device receives, compile time,
and whether the attention is a kernel or an array of scores.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import time
from collections import Counter
from pathlib import Path

# What libtpu would ask a TPU machine for.
os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "JAX_PLATFORMS": "cpu",
}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from cotjax import config as configs  # noqa: E402
from cotjax.interfaces import ScoredGroups  # noqa: E402
from cotjax.models.config_json import architecture_of  # noqa: E402
from cotjax.models.lora import attach  # noqa: E402
from cotjax.models.policy import Policy  # noqa: E402
from cotjax.models.transformer import Transformer  # noqa: E402
from cotjax.parallel.mesh import batch_devices, make_mesh  # noqa: E402
from cotjax.parallel.sharding import batched, param_shardings, placement  # noqa: E402
from cotjax.stages.common import make_optimizer, open_lora  # noqa: E402
from cotjax.stages.objective import Frozen, make_loss, open_objective  # noqa: E402
from cotjax.training.update import init_state, make_update  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HBM_GIB = {"v5e": 16, "v5p": 95, "v6e": 32}  # per chip, as Google Cloud documents them
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4}
COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def abstract_update(config: configs.Config, shape_file: Path, mesh: jax.sharding.Mesh):
    """(step, state, frozen, batch) of the GRPO stage, all arrays by shape only."""
    shape = architecture_of(json.loads(shape_file.read_text()), str(shape_file))
    model = nnx.eval_shape(
        lambda: Transformer(
            shape,
            rngs=nnx.Rngs(0),
            param_dtype=config.model.param_dtype,
            dtype=config.model.compute_dtype,
            accumulate_dtype=config.model.accumulate_dtype,
            remat=config.model.remat,
        )
    )
    policy, params = Policy.split(model)
    policy = dataclasses.replace(policy, placement=placement(mesh))
    trained, base = params, {}
    if config.lora.rank:
        base, lora = params, open_lora(config)
        trained = jax.eval_shape(lambda: attach(policy, params, lora, jax.random.key(0))[1])
        policy = dataclasses.replace(policy, lora=lora)

    def placed(tree):
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            param_shardings(mesh, tree),
        )

    frozen = Frozen(placed(base), placed(params))
    rollout = config.rollout
    prompts = config.policy.micro_batch * batch_devices(mesh)
    completions = prompts, rollout.group_size, rollout.max_new_tokens

    def of_shape(size, dtype):
        return jax.ShapeDtypeStruct(size, dtype, sharding=batched(mesh))

    groups = ScoredGroups(
        prompt=of_shape((prompts, rollout.max_prompt_tokens), jnp.int32),
        prompt_mask=of_shape((prompts, rollout.max_prompt_tokens), jnp.bool_),
        completion=of_shape(completions, jnp.int32),
        completion_mask=of_shape(completions, jnp.bool_),
        advantage=of_shape(completions[:2], jnp.float32),
        logp_sampler=of_shape(completions, jnp.float32),
    )
    optimizer = make_optimizer(config.optimizer, config.steps)
    loss = make_loss(
        policy,
        open_objective(config.policy),
        temperature=rollout.temperature,
        max_length=rollout.max_new_tokens,
    )
    state = init_state(placed(trained), optimizer)

    def step(now, frozen, groups):
        return make_update(loss, optimizer, state, frozen)(now, [groups])

    return step, state, frozen, groups


def collectives(text: str) -> dict[str, dict[str, float]]:
    """Kind -> how many, and GiB of results per device; a loop's body counts once."""
    count, size = Counter(), Counter()
    pattern = rf"= \(?(\w+)\[([\d,]*)\].* ({COLLECTIVES})(?:-start)?\("
    for dtype, shape, kind in re.findall(pattern, text):
        count[kind] += 1
        size[kind] += math.prod(map(int, filter(None, shape.split(",")))) * BYTES.get(dtype, 4)
    return {kind: {"count": count[kind], "gib": round(size[kind] / 2**30, 4)} for kind in count}


def measure(topology: str, config: configs.Config, shape_file: Path) -> dict:
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, devices=list(devices))
    step, state, frozen, groups = abstract_update(config, shape_file, mesh)
    place = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(step, donate_argnums=0, out_shardings=(place, None))
    began = time.perf_counter()
    lowered = step.lower(state, frozen, groups)
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    memory, asked = compiled.memory_analysis(), lowered.as_text()
    try:
        moved = collectives(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        # jaxlib cannot parse every instruction of a newer libtpu (v5p's asynchronous ones).
        moved = f"unreadable by this jaxlib: {str(error).splitlines()[0][:80]}"
    row = config.rollout.max_prompt_tokens + (
        config.rollout.group_size * config.rollout.max_new_tokens
    )
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return {
        "topology": topology,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        "prompts": groups.prompt.shape[0],
        "row_tokens": row,
        "hbm_gib": round(used / 2**30, 2),
        "hbm_limit_gib": HBM_GIB[topology.split(":")[0]],
        "state_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "temporary_gib": round(memory.temp_size_in_bytes / 2**30, 2),
        "tflop": round((compiled.cost_analysis() or {}).get("flops", float("nan")) / 1e12, 3),
        "collectives": moved,
        "flash_kernels": asked.count("@tpu_custom_call"),
        "score_arrays": len(re.findall(rf"tensor<(?:\d+x)*{row}x{row}x", asked)),
        "compile_s": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--topology", action="append", help="e.g. v5e:4x4; may be repeated")
    parser.add_argument(
        "--config", default=str(ROOT / "configs" / "qwen2.5-3b_gsm8k_grpo.toml"), help="TOML file"
    )
    parser.add_argument(
        "--shape", type=Path, default=ROOT / "configs" / "shapes" / "qwen2.5-3b.json"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line per topology")
    args, flags = parser.parse_known_args()
    config = configs.load(["--config", args.config, "--data.path=unread.jsonl", *flags])
    for topology in args.topology or ["v5e:4x4", "v5p:2x2x2", "v6e:4x4"]:
        numbers = measure(topology, config, args.shape)
        if args.json:
            print(json.dumps(numbers), flush=True)
        else:
            print("\n".join(f"{key.ljust(16)} {value}" for key, value in numbers.items()) + "\n")


if __name__ == "__main__":
    main()
