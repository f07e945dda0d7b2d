"""Compiles the GRPO update of a real model for TPU slices, on a machine without TPUs.

    pip install -e '.[aot]'
    python benchmarks/tpu_update.py                    # Qwen2.5-3B for v5e:4x4, v5p:2x2x2, v6e:4x4
    python benchmarks/tpu_update.py --topology v5e:4x4 --json

Weights exist by shape only. For each slice: memory per device against the chip's, the operations
of all matrix products on a device (a loop over layers counts once per layer; the attention
kernels' own are not among them), collectives by kind with the MiB of results that each device
receives, compile time, and whether the attention is a kernel or an array of scores.
"""

import dataclasses
import re

import hlo
import jax
import jax.numpy as jnp
import tpu

from cotjax import config as configs
from cotjax.interfaces import ScoredGroups
from cotjax.models.lora import attach
from cotjax.parallel.mesh import batch_devices
from cotjax.parallel.sharding import batched, param_shardings
from cotjax.stages.policy_loss import make_loss, open_objective
from cotjax.student.load import lora_of
from cotjax.training.optimizer import make_optimizer
from cotjax.training.update import Frozen, init_state, make_update


def abstract_update(config: configs.Config, shape_file, mesh: jax.sharding.Mesh):
    """(step, state, frozen, batch) of the GRPO stage, all arrays by shape only."""
    policy, params = tpu.abstract_policy(config.model, shape_file, mesh)
    trained, base = params, {}
    if config.lora.rank:
        base, lora = params, lora_of(config)
        trained = jax.eval_shape(lambda: attach(policy, params, lora, jax.random.key(0))[1])
        policy = dataclasses.replace(policy, lora=lora)

    def placed(tree):
        return tpu.placed(tree, param_shardings(mesh, tree))

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
        return make_update(loss, optimizer, state, join=policy.join)(now, [groups], frozen)

    return step, state, frozen, groups


def measure(topology: str, config: configs.Config, shape_file) -> dict:
    """A row of the table."""
    mesh = tpu.slice_mesh(topology, config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    step, state, frozen, groups = abstract_update(config, shape_file, mesh)
    place = jax.tree.map(lambda leaf: leaf.sharding, state)
    step = jax.jit(step, donate_argnums=0, out_shardings=(place, None))
    lowered = step.lower(state, frozen, groups)
    compiled, program, seconds = tpu.compile_for_tpu(lowered)
    asked = lowered.as_text()
    row = config.rollout.max_prompt_tokens + (
        config.rollout.group_size * config.rollout.max_new_tokens
    )
    return tpu.memory_row(topology, mesh, compiled) | {
        "prompts": groups.prompt.shape[0],
        "row_tokens": row,
        "tflop": round(sum(hlo.products(program).values()) / 1e12, 2),
        "collectives": tpu.in_mib(hlo.collectives(program).get("", {})),
        "flash_kernels": asked.count("@tpu_custom_call"),
        "score_arrays": len(re.findall(rf"tensor<(?:\d+x)*{row}x{row}x", asked)),
        "compile_s": round(seconds, 1),
    }


def main() -> None:
    args, flags = tpu.parser(__doc__).parse_known_args()
    config = configs.load(["--config", args.config, "--data.path=unread.jsonl", *flags])
    rows = (measure(one, config, args.shape) for one in args.topology or tpu.TOPOLOGIES)
    tpu.show(rows, as_json=args.json)


if __name__ == "__main__":
    main()
