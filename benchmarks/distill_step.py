"""Speed and memory of a distillation step with teachers; `distill_peers.py` starts it too.

    python benchmarks/distill_step.py '{"mode": "ours", "vocab": 49152, …}'

`ours` is the trainer's own step: hidden states of all teachers (two, or as many as "teachers"
says), chunked divergence from their mixture, update. `dense` is the same loss from whole rows of
logits of student and teachers. `store` writes the top-16 cache of a teacher, beside that teacher's
plain pass (hidden states, and log-probabilities of the text's tokens). Random weights; every row is
full and every token counts.
"""

import json
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

STARTED = time.perf_counter()

from cotjax.startup import compile_soon, use_large_pages  # noqa: E402

if __name__ == "__main__":
    use_large_pages()  # as the trainer does
    compile_soon()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from cotjax import config as configs  # noqa: E402
from cotjax.core import forward_kl, mix_teachers  # noqa: E402
from cotjax.curriculum.cache_logits import cache_logits, packed  # noqa: E402
from cotjax.curriculum.dataset import DistillDataset  # noqa: E402
from cotjax.interfaces import TokenBatch  # noqa: E402
from cotjax.models.formats import huggingface  # noqa: E402
from cotjax.models.formats.load import load_tokenizer, resolve  # noqa: E402
from cotjax.models.transformer import Architecture, Transformer  # noqa: E402
from cotjax.parallel.mesh import make_mesh, use_cpu_cores  # noqa: E402
from cotjax.parallel.sharding import shard  # noqa: E402
from cotjax.stages.distill_logits import DistillLogitsStage  # noqa: E402
from cotjax.student.load import load_policy  # noqa: E402
from cotjax.teachers import pool  # noqa: E402


def teachers_of(size: dict[str, Any]) -> list[str]:
    """The teachers' names."""
    return [f"teacher-{number + 1}" for number in range(size.get("teachers", 2))]


def write_models(size: dict[str, Any], folder: pathlib.Path) -> None:
    """A student and teachers of one shape, with random weights."""
    shape = Architecture(
        "llama",
        size["vocab"],
        size["hidden"],
        size["layers"],
        size["heads"],
        size["kv_heads"],
        size["head_dim"],
        size["mlp"],
    )
    tokenizer = load_tokenizer(resolve("tiny"))
    for seed, name in enumerate(("student", *teachers_of(size))):
        model = Transformer(shape, rngs=nnx.Rngs(seed))
        huggingface.save(model, folder / name, tokenizer=tokenizer)


def open_config(size: dict[str, Any], folder: pathlib.Path) -> configs.Config:
    flags = ["--stage=distill", f"--model.path={folder / 'student'}", "--curriculum.schedule=fixed"]
    names = teachers_of(size)
    flags += ["--teachers.paths", *(str(folder / name) for name in names)]
    flags += ["--curriculum.teacher-weights", *(str(1 / len(names)) for _ in names)]
    flags += ["--curriculum.ranking-problems=0"]
    flags += [f"--batch.size={size['rows']}", f"--batch.sequence-length={size['length']}"]
    flags += [f"--curriculum.examples={size['examples']}", "--curriculum.buckets=1"]
    return configs.load(
        [*flags, "--curriculum.num-monitor=1", "--eval.problems=1", "--data.concise-share=1"]
    )


def rows(size: dict[str, Any], step: int) -> TokenBatch:
    """Full rows of random tokens."""
    shape = size["rows"], size["length"]
    tokens = np.random.default_rng(step).integers(2, 400, (2, *shape), dtype=np.int32)
    host: Any = {
        "tokens": tokens[0],
        "targets": tokens[1],
        "weight": np.ones(shape, np.float32),
        "segment": np.ones(shape, np.int32),
        "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    }
    return TokenBatch(**host)


def measure_steps(size: dict[str, Any], folder: pathlib.Path) -> dict[str, float]:
    """Tokens per second of whole steps; the first is not counted."""
    config = open_config(size, folder)
    stage = DistillLogitsStage(config, make_mesh(-1))
    if size["mode"] == "dense":
        stage.learn_from(lambda params, reference, work: dense(stage, params, work), config.steps)
    state, ends, cpu = stage.state, [], []
    count = len(stage.teachers.names)
    for step in range(size["steps"] + 1):
        batch = shard(stage.mesh, rows(size, step))
        outputs = stage.teachers.outputs(batch, [1 / count] * count, 1.0)
        work = stage._work(batch, outputs, alpha=0.0, own=False, dropout_key=None)
        state, metrics = stage.update(state, [work])
        jax.block_until_ready(metrics)
        ends.append(time.perf_counter())
        cpu.append(time.process_time())
    seconds = statistics.median(np.diff(ends))
    loss, count = metrics["loss"]
    return {
        "step_tok_s": size["rows"] * size["length"] / seconds,
        "step_s": seconds,
        "step_cpu_s": statistics.median(np.diff(cpu)),
        "start_to_first_step_s": ends[0] - STARTED,
        "loss": float(loss / count),
    }


def dense(stage: DistillLogitsStage, params: Any, work: Any) -> Any:
    """The same loss from whole rows of logits."""
    policy, batch, outputs = stage.student.policy, work.batch, work.outputs
    student = policy.rows(params, batch) @ policy.head(params, whole=True).matrix.T
    pairs = zip(outputs.hidden, outputs.head, strict=True)
    logits = jnp.stack([hidden @ head.matrix.T for hidden, head in pairs])
    mixed = mix_teachers(logits, outputs.weight)
    distance = forward_kl(mixed, student).sum()
    count = jnp.asarray(batch.tokens.size, jnp.float32)
    return distance, count, {"divergence": (distance, count)}


def measure_store(size: dict[str, Any], folder: pathlib.Path) -> dict[str, float]:
    """Target positions a second: the teacher's plain pass, and writing its logit cache."""
    config = open_config(size, folder)
    config = configs.load([
        *("--stage=distill", f"--model.path={config.model.path}", "--curriculum.num-monitor=1"),
        *("--teachers.paths", str(folder / "teacher-1"), "--curriculum.ranking-problems=0"),
        *(f"--batch.size={size['rows']}", f"--batch.sequence-length={size['length']}"),
        *(f"--curriculum.examples={size['examples']}", "--curriculum.buckets=1"),
        "--data.concise-share=1",
    ])  # fmt: skip
    mesh = make_mesh(-1)
    done = cache_logits(config, mesh, folder / "warm")  # compiles
    done = cache_logits(config, mesh, folder / "store")
    plain = plain_pass(config, mesh)
    return {
        "store_positions_s": done.positions / done.seconds,
        "plain_positions_s": plain,
        "share_of_plain": done.positions / done.seconds / plain,
        "bytes_per_position": done.bytes / done.positions,
        "kl_of_cache": done.kl,
    }


def plain_pass(config: configs.Config, mesh: jax.sharding.Mesh) -> float:
    """Target positions a second of the teacher's log-probabilities of the texts."""
    student = load_policy(config, mesh)
    dataset = DistillDataset(config, mesh, student)
    teacher = pool.TeacherPool(config, mesh, student.tokenizer, slots=1)[0]
    policy = teacher.student.policy

    @jax.jit
    def score(params: Any, batch: TokenBatch) -> jax.Array:
        hidden, mask = policy.rows(params, batch), batch.weight > 0
        return policy.head_logprobs(params, hidden, batch.targets, mask)[0]

    size, indices = config.batch, np.arange(len(dataset.records))
    batches = [batch for batch, _ in packed(dataset, indices, size.size, size.sequence_length)]
    jax.block_until_ready(score(teacher.params, shard(mesh, batches[0])))
    began = time.perf_counter()
    for batch in batches:
        scored = score(teacher.params, shard(mesh, batch))
    jax.block_until_ready(scored)
    return sum(float((b.weight > 0).sum()) for b in batches) / (time.perf_counter() - began)


def main() -> None:
    """Prints one line of JSON."""
    size = json.loads(sys.argv[1])
    # The tokenizer is the tiny one; all rows of the unembedding count as common tokens.
    pool.common_size = lambda *models, names: size["vocab"]
    use_cpu_cores(4 * size["vocab"] * size["hidden"])
    with tempfile.TemporaryDirectory() as folder:
        write_models(size, pathlib.Path(folder))
        measure = measure_store if size["mode"] == "store" else measure_steps
        numbers = measure(size, pathlib.Path(folder))
    numbers["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(numbers))


if __name__ == "__main__":
    main()
