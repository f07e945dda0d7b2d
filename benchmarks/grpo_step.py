"""`python benchmarks/grpo_step.py --shape=tiny --json`: how fast one GRPO step is, and why.

Random weights, random prompts, rewards by the real reward function; the rollout, scoring and
update are the trainer's own. Every completion is as long as the shape says (no end token), so
the work is the same on every run. Limits are measured in the same process:

    gemm_gflops      a large square matrix product, in the format of the activations
    bandwidth_gbs    reading and writing a large array
    rollout_roofline seconds that weights, caches and products need at these limits / measured
    update_roofline  floating point operations of the update / (gemm_gflops · measured seconds)

`--weights-dtype=int8` and `--draft-tokens=4` sample as `rollout.weights_dtype` and
`rollout.draft_tokens` do. `accelerator.py` starts it on whatever is present.
"""

import argparse
import dataclasses
import functools
import json
import os
import resource
import statistics
import time

STARTED = time.perf_counter()

from cotjax.startup import compile_soon, use_large_pages  # noqa: E402

if __name__ == "__main__":
    use_large_pages()  # as the trainer does
    compile_soon()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from cotjax import config as configs  # noqa: E402
from cotjax.data.problems import ProblemSource  # noqa: E402
from cotjax.data.prompts import make_prompts  # noqa: E402
from cotjax.interfaces import PromptBatch, Record  # noqa: E402
from cotjax.models.formats.load import load_model  # noqa: E402
from cotjax.models.formats.weights import Drawn, fill  # noqa: E402
from cotjax.models.policy import Policy  # noqa: E402
from cotjax.models.transformer import Architecture  # noqa: E402
from cotjax.parallel.mesh import make_mesh, use_cpu_cores  # noqa: E402
from cotjax.parallel.sharding import param_shardings, placement, shard  # noqa: E402
from cotjax.rollout.generate import generate  # noqa: E402
from cotjax.stages.policy import PolicyStage  # noqa: E402
from cotjax.student.attention import attention_of  # noqa: E402
from cotjax.student.load import LoadedPolicy  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and the sizes of a step: prompts B, group G, prompt tokens P, new tokens T."""

    model: Architecture
    prompts: int
    group: int
    prompt_tokens: int
    new_tokens: int


_TINY = Architecture("llama", 4096, 256, 4, 8, 4, 32, 688)
_SMOL = Architecture("llama", 49152, 576, 30, 9, 3, 64, 1536)
_QWEN = Architecture("qwen2", 151936, 896, 24, 14, 2, 64, 4864, qkv_bias=True)
SHAPES = {
    "tiny": Shape(_TINY, 8, 8, 64, 128),
    "smol": Shape(_SMOL, 4, 8, 64, 64),
    "bridge": Shape(_TINY, 4, 8, 256, 128),
    "qwen2.5-0.5b": Shape(_QWEN, 8, 8, 256, 256),
}


class BenchmarkStage(PolicyStage):
    """The trainer's stage with a student of random weights that never writes the end token."""

    def __init__(self, config: configs.Config, shape: Shape) -> None:
        mesh = make_mesh(config.mesh.data)
        student = random_policy(config, mesh, shape)
        super().__init__(config, mesh, student, [], data=lambda folder: RandomPrompts(shape))
        self.sampling = dataclasses.replace(self.sampling, eos_id=-1)


def random_policy(config: configs.Config, mesh: Mesh, shape: Shape) -> LoadedPolicy:
    """Random weights of the shape; the built-in tokenizer."""
    tokenizer = load_model(
        "tiny", init="random", param_dtype=jnp.float32, compute_dtype=jnp.float32, seed=0
    )
    formats = {
        "param_dtype": jnp.dtype(config.model.param_dtype),
        "dtype": jnp.dtype(config.model.compute_dtype),
    }
    place = functools.partial(param_shardings, mesh)
    model = fill(shape.model, Drawn(shape.model, 0), **formats, place=place)
    policy, params = Policy.split(model)
    kind = attention_of(config.model, shape.model, mesh)
    policy = dataclasses.replace(policy, placement=placement(mesh, attention=kind))
    return LoadedPolicy(
        policy=policy,
        sampler=policy,
        shapes=jax.tree.map(to_shape, params),
        base_shapes={},
        tokenizer=tokenizer.tokenizer,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        prompts=make_prompts(tokenizer.tokenizer, "plain"),
        notes=(),
        read=lambda: (params, {}),
    )


def to_shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    """What stands for an array."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


class RandomPrompts:
    """An endless stream of full-length prompts of random tokens, each with a built-in problem."""

    num_buckets, bucket, metrics = 1, 0, {}

    def __init__(self, shape: Shape) -> None:
        self._shape, self._step, self._problems = shape, 0, ProblemSource("train", 0, 2, 6)

    def __iter__(self) -> "RandomPrompts":
        return self

    def __next__(self) -> tuple[PromptBatch, list[Record]]:
        size = (self._shape.prompts, self._shape.prompt_tokens)
        tokens = np.random.default_rng(self._step).integers(2, 400, size, dtype=np.int32)
        ids = np.arange(size[0], dtype=np.int32) + self._step * size[0]
        self._step += 1
        return PromptBatch(tokens, np.ones(size, bool), ids), [self._problems[int(i)] for i in ids]


def make_config(
    shape: Shape, dtype: str, attention: str = "auto", **rollout: object
) -> configs.Config:
    """The default GRPO config with the shape's sizes, AdamW and β = 0.04.

    Args:
      shape: sizes.
      dtype: of parameters and activations.
      attention: how it is computed.
      **rollout: further settings of the rollout.
    """
    flags = {f"rollout.{key}": value for key, value in rollout.items()} | {
        "rollout.prompts": shape.prompts,
        "rollout.group-size": shape.group,
        "rollout.max-prompt-tokens": shape.prompt_tokens,
        "rollout.max-new-tokens": shape.new_tokens,
        "policy.kl-coefficient": 0.04,
        "policy.sampler-correction": 2.0 if rollout.get("weights-dtype") == "int8" else 0.0,
        "model.param-dtype": dtype,
        "model.compute-dtype": dtype,
        "model.attention": attention,
    }
    return configs.load(["--stage=grpo", *(f"--{key}={value}" for key, value in flags.items())])


def seconds(work, repeats: int) -> float:
    """Median wall time of a call that returns arrays."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def limits(dtype: str) -> tuple[float, float]:
    """GFLOP/s of a large square product, GB/s of a copy of 256 MiB (read + write); of a device."""
    size = 2048 if on_cpu() else 8192
    square = jnp.ones((size, size), dtype)
    product = jax.jit(lambda x: x @ x)
    jax.block_until_ready(product(square))
    flops = 2 * size**3 / min(seconds(lambda: product(square), 1) for _ in range(5))
    long = jnp.ones(2**26)
    copy = jax.jit(lambda x: x + 1)
    jax.block_until_ready(copy(long))
    moved = 2 * long.nbytes / min(seconds(lambda: copy(long), 1) for _ in range(5))
    return flops / 1e9, moved / 1e9


def on_cpu() -> bool:
    """Whether no accelerator is present."""
    return jax.default_backend() == "cpu"


def rollout_limit(shape: Shape, itemsize: int, gflops: float, gbs: float) -> float:
    """Seconds that a perfect sampler needs: prefill once, then per token the larger of two limits.

    Per token every weight and every cached key and value is read once, the prompt's cache once
    per prompt; products are 2 · parameters per row, and the attention's.
    """
    model, rows = shape.model, shape.prompts * shape.group
    matrices = _matrix_parameters(model)
    kv = 2 * model.num_layers * model.num_kv_heads * model.head_dim * itemsize
    total = 2 * matrices * shape.prompts * shape.prompt_tokens / (gflops * 1e9)
    for done in range(shape.new_tokens):
        read = matrices * itemsize + kv * (shape.prompts * shape.prompt_tokens + rows * done)
        attention = 4 * model.num_layers * model.num_heads * model.head_dim
        flops = rows * (2 * matrices + attention * (shape.prompt_tokens + done))
        total += max(read / (gbs * 1e9), flops / (gflops * 1e9))
    return total


def update_flops(shape: Shape) -> float:
    """Operations that scoring the reference and updating execute; each prompt counted once.

    Per parameter and token: forward 2, backward 4, the reference's forward 2; for the
    unembedding 2 more, because the backward pass computes the logits again.
    """
    model, rows = shape.model, shape.prompts * shape.group
    head = model.vocab_size * model.hidden_size
    body = _matrix_parameters(model) - head
    tokens = shape.prompts * shape.prompt_tokens + rows * shape.new_tokens
    spread = shape.prompts * shape.prompt_tokens**2 + rows * shape.new_tokens * (
        shape.prompt_tokens + shape.new_tokens
    )
    attention = 4 * model.num_layers * model.num_heads * model.head_dim * spread
    return 8 * body * tokens + 10 * head * rows * shape.new_tokens + 4 * attention


def _matrix_parameters(model: Architecture) -> int:
    heads = model.head_dim * (2 * model.num_heads + 2 * model.num_kv_heads)
    layer = model.hidden_size * heads + 3 * model.hidden_size * model.mlp_size
    return model.num_layers * layer + model.vocab_size * model.hidden_size


def measure(name: str, dtype: str, repeats: int, **more: object) -> dict[str, float | str]:
    """All numbers of a shape; arguments as for `make_config`."""
    shape = SHAPES[name]
    use_cpu_cores(4 * _matrix_parameters(shape.model))
    stage = BenchmarkStage(make_config(shape, dtype, **more), shape)
    state = stage.state

    def step(state, number):
        work = stage.next_step(state.params, number)
        state, metrics = stage.update(state, work.batch)
        jax.block_until_ready(metrics)
        return state, work

    state, work = step(state, 0)
    to_first = time.perf_counter() - STARTED
    whole, updates = [], []
    for number in range(1, repeats + 1):
        began = time.perf_counter()
        state, work = step(state, number)
        whole.append(time.perf_counter() - began)
    # Of the steps; what follows compiles the rollout anew to time it alone.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    statistics_of = jax.local_devices()[0].memory_stats() or {}
    on_device = statistics_of.get("peak_bytes_in_use", 0) / 2**30

    prompts = shard(stage.mesh, next(RandomPrompts(shape))[0])
    key = jax.random.key(1)
    rollout_s = seconds(
        lambda: generate(stage.student.policy, state.params, prompts, key, settings=stage.sampling),
        repeats,
    )
    for _ in range(repeats):
        began = time.perf_counter()
        state, metrics = stage.update(state, work.batch)
        jax.block_until_ready(metrics)
        updates.append(time.perf_counter() - began)
    update_s = statistics.median(updates)
    gflops, gbs = (one * (1 if on_cpu() else jax.device_count()) for one in limits(dtype))
    rows = shape.prompts * shape.group
    best = rollout_limit(shape, jnp.dtype(dtype).itemsize, gflops, gbs)
    return {
        "shape": name,
        "dtype": dtype,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "rollout_tok_s": round(rows * shape.new_tokens / rollout_s, 1),
        "update_tok_s": round(rows * (shape.prompt_tokens + shape.new_tokens) / update_s, 1),
        "step_s": round(statistics.median(whole), 4),
        "rollout_s": round(rollout_s, 4),
        "update_s": round(update_s, 4),
        "start_to_first_step_s": round(to_first, 2),
        "peak_rss_gib": round(peak, 3),
        "peak_device_gib": round(on_device, 3),
        "gemm_gflops": round(gflops, 1),
        "bandwidth_gbs": round(gbs, 1),
        "rollout_roofline": round(best / rollout_s, 3),
        "update_roofline": round(update_flops(shape) / (gflops * 1e9 * update_s), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5, help="counted steps; medians are printed")
    parser.add_argument("--weights-dtype", choices=("auto", "int8"), default="auto")
    parser.add_argument("--draft-tokens", type=int, default=0)
    kinds = ("auto", "dense", "flash", "cudnn")
    parser.add_argument("--attention", choices=kinds, default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of a table")
    args = parser.parse_args()
    rollout = {"weights-dtype": args.weights_dtype, "draft-tokens": args.draft_tokens}
    numbers = measure(args.shape, args.dtype, args.repeats, attention=args.attention, **rollout)
    if args.json:
        print(json.dumps(numbers))
    else:
        for key, value in numbers.items():
            print(f"{key.ljust(24)} {value}")


if __name__ == "__main__":
    main()
