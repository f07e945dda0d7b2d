"""One point of `growth.py`, in a process of its own: time and memory at one size of one axis.

    python benchmarks/growth_points.py '{"axis": "group", "value": 16, "quick": false, "steps": 5}'

It prints one line of JSON. Each quantity has seconds of the clock and of the CPU, all threads
together: of steps the median, of batches the mean, without the first, which compiles or sorts.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cotjax.startup import compile_soon, use_large_pages

if __name__ == "__main__":
    use_large_pages()  # as the trainer does
    compile_soon()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["JAX_NUM_CPU_DEVICES"] = "1"  # at every size, however large the model

import distill_step  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from grpo_step import BenchmarkStage, Shape, make_config  # noqa: E402

from cotjax import Config  # noqa: E402
from cotjax.core.curriculum import assign_buckets  # noqa: E402
from cotjax.curriculum.buckets import BucketRows, bucket_pools  # noqa: E402
from cotjax.curriculum.prompt_stream import prompt_stream  # noqa: E402
from cotjax.data import user_source  # noqa: E402
from cotjax.data.draws import draws  # noqa: E402
from cotjax.data.pipeline import supervised_batches  # noqa: E402
from cotjax.data.problems import ProblemSource  # noqa: E402
from cotjax.data.prompts import make_prompts  # noqa: E402
from cotjax.data.token_cache import TokenCache  # noqa: E402
from cotjax.models.formats.load import load_tokenizer, resolve  # noqa: E402
from cotjax.models.transformer import Architecture  # noqa: E402
from cotjax.stages.supervised import Solution  # noqa: E402
from cotjax.student.records import load_records  # noqa: E402
from cotjax.teachers import pool  # noqa: E402

# A quantity's seconds of the clock and of the CPU.
Seconds = dict[str, float]
Numbers = dict[str, Any]

STEP = Shape(
    Architecture("llama", 4096, 256, 4, 8, 4, 32, 688),
    prompts=4, group=4, prompt_tokens=64, new_tokens=64,
)  # fmt: skip
QUICK_STEP = Shape(
    Architecture("llama", 432, 16, 1, 2, 1, 8, 16),
    prompts=2, group=2, prompt_tokens=8, new_tokens=4,
)  # fmt: skip
DISTILL = {
    **{"mode": "ours", "vocab": 4096, "hidden": 256, "layers": 4, "heads": 8, "kv_heads": 4},
    **{"head_dim": 32, "mlp": 688, "rows": 4, "length": 256, "examples": 16},
}
QUICK_DISTILL = DISTILL | {
    **{"vocab": 432, "hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 8},
    "mlp": 16,
}
ROWS, LENGTH, PROMPTS = 8, 512, 16  # of a batch of records
BUCKETS, REPLAY, HELD_OUT = 4, 0.25, 64


def peak_mib() -> float:
    """The most memory that this program ever had, MiB.

    By Linux's own count where there is one: `ru_maxrss` begins with what a parent had at the fork.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextlib.contextmanager
def timed() -> Iterator[Seconds]:
    """Fills in how long its block took."""
    found: Seconds = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield found
    found |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def median(times: Sequence[Seconds]) -> Seconds:
    """Of the clock and of the CPU, each by itself."""
    return {key: statistics.median(one[key] for one in times) for key in times[0]}


def repeated(work: Callable[[], Any], count: int) -> tuple[Seconds, Seconds]:
    """The first call's seconds, and the mean of `count` further ones: one in many makes a block."""
    with timed() as first:
        work()
    with timed() as later:
        for _ in range(count):
            work()
    return first, {key: value / count for key, value in later.items()}


# Steps.


def shape_at(axis: str, value: int, base: Shape) -> Shape:
    """The sizes of a step at a point."""
    if axis == "vocabulary":
        return dataclasses.replace(base, model=dataclasses.replace(base.model, vocab_size=value))
    name = {"prompts": "prompts", "group": "group", "length": "new_tokens"}[axis]
    return dataclasses.replace(base, **{name: value})


def measure_policy(shape: Shape, steps: int) -> Numbers:
    """Steps of GRPO: the trainer's own rollout, rewards, scoring and update."""
    stage = BenchmarkStage(make_config(shape, "float32"), shape)
    state, times = stage.state, {"step": [], "rollout": [], "update": []}
    before = peak_mib()
    for number in range(steps + 1):
        with timed() as step:
            with timed() as rollout:
                work = stage.next_step(state.params, number)
            with timed() as update:
                state, metrics = stage.update(state, work.batch)
                jax.block_until_ready(metrics)
        for name, found in (("step", step), ("rollout", rollout), ("update", update)):
            times[name].append(found)
    return {"before_mib": before} | {name: median(each[1:]) for name, each in times.items()}


def measure_teachers(count: int, size: dict[str, Any], steps: int) -> Numbers:
    """Steps of distillation from a mixture of so many teachers."""
    size = size | {"teachers": count, "steps": steps}
    # The tokenizer is the tiny one; all rows of the unembedding count as common tokens.
    pool.common_size = lambda *models, names: size["vocab"]
    before = peak_mib()
    with tempfile.TemporaryDirectory() as folder:
        distill_step.write_models(size, pathlib.Path(folder))
        found = distill_step.measure_steps(size, pathlib.Path(folder))
    step = {"wall_s": found["step_s"], "cpu_s": found["step_cpu_s"]}
    return {"before_mib": before, "step": step}


# Records.


def write_file(path: pathlib.Path, count: int) -> None:
    """So many problems, a line of JSON each, of which no two are alike but for their numbers."""
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            row = {
                "question": f"Shelf {n:x} holds {n % 89 + 2} books and gets {n % 7 + 2}. How many?",
                "answer": f"{n % 89 + 2}+{n % 7 + 2}={n % 89 + n % 7 + 4}\n"
                f"#### {n % 89 + n % 7 + 4}",
            }
            file.write(json.dumps(row) + "\n")


def measure_records(count: int, folder: pathlib.Path, *, from_file: bool, batches: int) -> Numbers:
    """What a run does with its records: opens, orders, draws batches, resumes at a late one.

    Args:
      count: of records.
      folder: for a file of them.
      from_file: a .jsonl file, which is read whole; else a source with random access, as large ones
        are, whose records are made when they are asked for.
      batches: counted ones.
    """
    own: dict[str, Any] = {"source": ProblemSource("train", 0, 2, 6, size=count)}
    if from_file:
        write_file(folder / "records.jsonl", count)
        own = {"source": "jsonl", "path": str(folder / "records.jsonl")}
    user_source.SMALL = 0  # every size is taken as a large one
    config = Config.for_stage(
        "grpo", data=own, rollout={"prompts": PROMPTS}, eval={"problems": HELD_OUT}
    )
    tokenizer = load_tokenizer(resolve("tiny"))
    prompts = make_prompts(tokenizer, "plain")
    before = peak_mib()
    with timed() as opened:
        train, _ = load_records(config, tokenizer, prompts)
    encode = Solution(TokenCache(tokenizer), prompts, tokenizer.eos_token_id, LENGTH)
    parts = {
        "prompts": lambda: _prompts(config, tokenizer, prompts, train, batches),
        "rows": lambda: _rows(train, encode, batches),
        "buckets": lambda: _buckets(train, encode, batches),
    }
    found: Numbers = {"before_mib": before, "open": opened, "memory": {"open": peak_mib()}}
    for name, measure in parts.items():
        found |= {f"{name}, {what}": seconds for what, seconds in measure().items()}
        found["memory"][name] = peak_mib()
    return found


def _prompts(
    config: Config, tokenizer: Any, prompts: Any, train: Any, batches: int
) -> dict[str, Seconds]:
    """Of a policy stage."""
    solve = lambda record, rng: prompts.solve(record.question)  # noqa: E731
    never = lambda records: np.zeros(len(records))  # noqa: E731  there is one bucket
    stream = prompt_stream(config, tokenizer, train, lambda progress: solve, never)
    first, later = repeated(lambda: next(stream), batches)
    place = {"block": 3 * len(train) // PROMPTS, "row": 0}  # in the fourth pass
    with timed() as resumed:
        stream.set_state(stream.get_state() | {"position": place})
        next(stream)
    stream.close()
    return {"first batch": first, "batch": later, "resume": resumed}


def _rows(train: Any, encode: Solution, batches: int) -> dict[str, Seconds]:
    """Of a supervised stage."""
    stream = supervised_batches(train, encode, seed=0, batch_size=ROWS, sequence_length=LENGTH)
    first, later = repeated(lambda: next(stream), batches)
    with timed() as resumed:
        stream.set_state({"block": 3 * len(train) // min(512, len(train)), "row": 0})
        next(stream)
    stream.close()
    return {"first batch": first, "batch": later, "resume": resumed}


def _buckets(train: Any, encode: Solution, batches: int) -> dict[str, Seconds]:
    """Of a curriculum, the last bucket's, with replay of those before; difficulties are drawn."""
    generator = np.random.default_rng(0)
    difficulty = generator.random(len(train))

    def open_rows() -> BucketRows:
        bucket = assign_buckets(difficulty, num_buckets=BUCKETS, seed=0)
        return BucketRows(
            lambda index: encode(train[index], next(draws(generator, 1))),
            bucket_pools(bucket, direction="easy_first", pacing="contiguous"),
            replay=REPLAY, seed=0, rows=ROWS, length=LENGTH,
        )  # fmt: skip

    with timed() as sorting:
        rows = open_rows()
    first, later = repeated(lambda: rows.next_rows(BUCKETS - 1), batches)
    with timed() as resumed:
        again = open_rows()
        again.set_state({"bucket": BUCKETS - 1, "place": 3 * len(rows.pools[-1])})
        again.next_rows(BUCKETS - 1)
    return {"sort": sorting, "first batch": first, "batch": later, "resume": resumed}


def measure(axis: str, value: int, *, quick: bool, steps: int) -> Numbers:
    """The numbers of a point.

    Args:
      axis: of `growth.AXES`.
      value: the size.
      quick: the least shapes.
      steps: that count, after the first; of records so many times 8 batches.
    """
    if axis == "teachers":
        found = measure_teachers(value, QUICK_DISTILL if quick else DISTILL, steps)
    elif axis in ("records", "file"):
        with tempfile.TemporaryDirectory() as folder:
            found = measure_records(
                *(value, pathlib.Path(folder)), from_file=axis == "file", batches=8 * steps
            )
    else:
        shape = shape_at(axis, value, QUICK_STEP if quick else STEP)
        found = measure_policy(shape, steps)
    return found | {"peak_mib": peak_mib()}


def main() -> None:
    """Prints one line of JSON."""
    point = json.loads(sys.argv[1])
    found = measure(**point)
    print(json.dumps(point | found))


if __name__ == "__main__":
    main()
