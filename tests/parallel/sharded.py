"""A GRPO, a supervised and a distillation update on any mesh; also run as one of two processes.

python -m tests.parallel.sharded PROCESS PORT FILE
"""

import dataclasses
import sys

import jax
import numpy as np
import optax

from cotjax.core import chunked_divergence, chunked_token_logprobs, make_objective, policy_loss
from cotjax.core.masking import token_sum_count
from cotjax.interfaces import ScoredGroups, TokenBatch
from cotjax.models.lora import Lora, attach
from cotjax.models.policy import Policy
from cotjax.models.transformer import Architecture
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement, shard, shard_params
from cotjax.training.update import Frozen, init_state, make_update
from tests.tiny import make_model

# Ten layers are scanned; every size can be split in eight.
SHAPE = Architecture("qwen2", 432, 16, 10, 8, 8, 8, 32, qkv_bias=True)
PROMPTS, GROUP, PROMPT, LENGTH = 8, 2, 8, 16
OBJECTIVE = make_objective("grpo", beta=0.1)


def inputs():
    """Batches with uneven masks, the same in every process."""
    rng = np.random.default_rng(0)
    size = (PROMPTS, GROUP, LENGTH)
    mask = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, (PROMPTS, GROUP, 1))
    groups = ScoredGroups(
        prompt=rng.integers(0, SHAPE.vocab_size, (PROMPTS, PROMPT), dtype=np.int32),
        prompt_mask=np.arange(PROMPT) >= rng.integers(0, PROMPT, (PROMPTS, 1)),
        completion=rng.integers(0, SHAPE.vocab_size, size, dtype=np.int32),
        completion_mask=mask,
        advantage=rng.normal(size=(PROMPTS, GROUP)).astype(np.float32),
        logp_sampler=np.zeros(size, np.float32),
    )
    tokens = rng.integers(0, SHAPE.vocab_size, (PROMPTS, LENGTH), dtype=np.int32)
    weight = (rng.random((PROMPTS, LENGTH)) < 0.7).astype(np.float32)
    segment = np.ones((PROMPTS, LENGTH), np.int32)
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), segment.shape)
    rows = TokenBatch(tokens, np.roll(tokens, -1, 1), weight, segment, positions)
    return groups, rows


def losses(policy):
    """Name -> a loss of (all parameters, reference, (groups, rows)) as (sum, count, metrics)."""

    def grpo(params, reference, batch):
        groups, _ = batch

        def logprobs(policy, params):
            hidden = policy.completions(
                params, groups.prompt, groups.prompt_mask, groups.completion
            )
            return chunked_token_logprobs(
                hidden,
                policy.unembed(params, whole=True),
                groups.completion,
                chunk_size=96,
                mask=groups.completion_mask,
            )

        logp, entropy = logprobs(policy, params)
        return policy_loss(
            OBJECTIVE,
            logp,
            None,
            logprobs(policy.without_adapter, reference)[0],
            groups.advantage[..., None],
            groups.completion_mask,
            max_length=LENGTH,
            entropy=entropy,
        )

    def distill(params, reference, batch):
        _, rows = batch
        value = chunked_divergence(
            "reverse_kl",
            policy.rows(reference, rows),
            policy.unembed(reference, whole=True),
            policy.rows(params, rows),
            policy.unembed(params, whole=True),
            chunk_size=96,
            mask=rows.weight > 0,
        )
        return *token_sum_count(value, rows.weight > 0), {}

    return {"grpo": grpo, "adapter": grpo, "distill": distill}


def open_policy(mesh, kind):
    """(policy, what is trained, what is frozen) on a mesh; an adapter's base is its reference."""
    policy, params = Policy.split(make_model(SHAPE))
    policy = dataclasses.replace(policy, placement=placement(mesh))
    trained, frozen = params, jax.tree.map(lambda leaf: 0.9 * leaf, params)
    if kind == "adapter":
        lora = Lora(2, 4.0, 0.0, ("query", "down"))
        policy, fresh = attach(policy, params, lora, jax.random.key(0))
        # Away from its beginning, where half of its gradient is zero.
        trained, frozen = jax.tree.map(lambda leaf: leaf + 0.1, fresh), params
    reference = shard_params(mesh, frozen)
    base = reference if kind == "adapter" else {}
    return policy, shard_params(mesh, trained), Frozen(base, reference)


def whole(tree):
    """On this process's host, whatever devices hold it."""
    from jax.experimental.multihost_utils import process_allgather

    return jax.tree.map(np.asarray, process_allgather(tree, tiled=True))


def three_steps(mesh, kind):
    """Losses and gradient norms of three steps, the first gradient, the last parameters."""
    policy, params, frozen = open_policy(mesh, kind)
    loss = losses(policy)[kind]
    batch = shard(mesh, inputs())

    def total(params, frozen, batch):
        value, count, _ = loss(policy.join(params, frozen.base), frozen.reference, batch)
        return value / count

    gradient = whole(jax.jit(jax.grad(total))(params, frozen, batch))
    # The keys' biases have no gradient but rounding; a small eps would make steps of it.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3))
    state = init_state(params, optimizer)
    update = make_update(loss, optimizer, state, join=policy.join)
    numbers = []
    for _ in range(3):
        state, metrics = update(state, [batch], frozen)
        numbers += [float(metrics[name][0] / metrics[name][1]) for name in ("loss", "grad_norm")]
    return np.array(numbers), gradient, whole(state.params)


def main():
    process, port, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=process)
    assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
    numbers, gradient, params = three_steps(make_mesh(2, 2, 2), "grpo")
    if process == 0:
        leaves = jax.tree.leaves((gradient, params))
        np.savez(file, numbers, *leaves)


if __name__ == "__main__":
    main()
