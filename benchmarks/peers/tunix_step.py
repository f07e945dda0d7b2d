"""One GRPO step of Tunix's own `GRPOLearner` on random weights; `peers.py` starts it.

The real learner runs with the vanilla rollout: sampler, the reference's log-probabilities,
`grpo_loss_fn`, its gradient and AdamW. The rollout is the cluster's `generate`; the update is the
rest of the step, until the new parameters are there. The end token is no token of the model, so
every completion has full length. With `ragged` its sampler alone runs, and every 40th token id ends
a row: the batch decodes until its longest row ends.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import types  # noqa: E402

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402
from tunix.generate.sampler import CacheConfig, Sampler  # noqa: E402
from tunix.models.llama3.model import Llama3, ModelConfig  # noqa: E402
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner  # noqa: E402
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role  # noqa: E402
from tunix.rl.rollout.base_rollout import RolloutConfig  # noqa: E402

# A tokenizer whose text is the ids themselves; pad and end are ids that no model draws.
NUMBERS = types.SimpleNamespace(
    encode=lambda text, **_: [int(word) for word in text.split()],
    decode=lambda ids, **_: " ".join(map(str, ids)),
    bos_id=lambda: 0,  # false: none is put before the prompt
    eos_id=lambda: -2,
    pad_id=lambda: -1,
)


def make_model(size: dict) -> Llama3:
    """Llama of the shape, tied embeddings, float32, random weights of standard deviation 0.02."""
    config = ModelConfig(
        num_layers=size["layers"],
        vocab_size=size["vocab"],
        embed_dim=size["hidden"],
        hidden_dim=size["mlp"],
        num_heads=size["heads"],
        head_dim=size["head_dim"],
        num_kv_heads=size["kv_heads"],
        rope_theta=10000,
        norm_eps=1e-5,
        weight_tying=True,
    )
    model = Llama3(config, rngs=nnx.Rngs(0))
    small = lambda x: x * 0.02 / max(float(x.std()), 0.02) if x.ndim > 1 else x  # noqa: E731
    nnx.update(model, jax.tree.map(small, nnx.state(model)))
    return model


def prompts(size: dict, seed: int) -> np.ndarray:
    """An array: the learner repeats arrays, and takes each text of a list for an array."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(2, 400, (size["prompts"], size["prompt_tokens"]))
    return np.array([" ".join(map(str, row)) for row in ids])


def measure(size: dict) -> dict:
    """Medians of the counted steps; the first one is not counted."""
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows, steps = size["prompts"] * size["group"], size["steps"]
    with mesh:
        cluster = RLCluster(
            actor=make_model(size),
            reference=make_model(size),
            tokenizer=NUMBERS,
            cluster_config=ClusterConfig(
                role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
                rollout_engine="vanilla",
                training_config=RLTrainingConfig(
                    actor_optimizer=optax.adamw(1e-6), eval_every_n_steps=10**6, max_steps=steps + 1
                ),
                rollout_config=RolloutConfig(
                    max_tokens_to_generate=size["new_tokens"],
                    max_prompt_length=size["prompt_tokens"],
                    kv_cache_size=size["prompt_tokens"] + size["new_tokens"],
                    temperature=1.0,
                ),
            ),
        )
        rollouts, whole, first = [], [], []
        inner = cluster.generate

        def generate(*args, **kwargs):
            began = time.perf_counter()
            out = inner(*args, **kwargs)
            rollouts.append(time.perf_counter() - began)
            if any(len(ids) != size["new_tokens"] for ids in out.tokens):
                raise AssertionError("a completion ended early")
            return out

        cluster.generate = generate

        class Timed(GRPOLearner):
            def _run_global_step(self, *args):
                began = time.perf_counter()
                super()._run_global_step(*args)
                jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
                whole.append(time.perf_counter() - began)
                first.append(time.perf_counter() - STARTED)

        learner = Timed(
            rl_cluster=cluster,
            algo_config=GRPOConfig(num_generations=size["group"], num_iterations=1, beta=0.04),
            reward_fns=lambda prompts, completions, **_: [float(len(c) % 7) for c in completions],
        )
        learner.train([{"prompts": prompts(size, n)} for n in range(steps + 1)])
    updates = [a - b for a, b in zip(whole[1:], rollouts[1:], strict=True)]
    rollout_s, update_s = statistics.median(rollouts[1:]), statistics.median(updates)
    return {
        "rollout_tok_s": rows * size["new_tokens"] / rollout_s,
        "update_tok_s": rows * (size["prompt_tokens"] + size["new_tokens"]) / update_s,
        "step_s": statistics.median(whole[1:]),
        "start_to_first_step_s": first[0],
    }


def ragged(size: dict) -> dict:
    """Useful tokens per second of the sampler when every 40th token id is an end."""
    length = size["prompt_tokens"] + size["new_tokens"]
    cache = CacheConfig(length, size["layers"], size["kv_heads"], size["head_dim"])
    sampler = Sampler(make_model(size), NUMBERS, cache)
    ends, speeds = list(range(0, size["vocab"], size["end_every"])), []
    for number in range(size["steps"] + 1):
        texts = [text for text in prompts(size, number) for _ in range(size["group"])]
        began = time.perf_counter()
        out = sampler(
            texts, size["new_tokens"], size["prompt_tokens"], eos_tokens=ends,
            temperature=1.0, top_p=1.0, seed=number,
        )  # fmt: skip
        took = time.perf_counter() - began
        # The sampler cuts before the end token; ours and TRL's counts include it.
        lengths = [min(len(ids) + 1, size["new_tokens"]) for ids in out.tokens]
        speeds.append(sum(lengths) / took)
    return {"useful_tok_s": statistics.median(speeds[1:])}


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    numbers = ragged(settings) if settings["ragged"] else measure(settings)
    numbers["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(numbers))
