"""The loop that every stage shares: evaluate, step, log, save, evaluate again.

Resuming continues as if nothing had happened: the state and the data position come from the
checkpoint, and every random key is folded from the seed and the step.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
from rich.console import Console

from cotjax.errors import InputError
from cotjax.interfaces import Limit, Stage, Step
from cotjax.training.checkpoint import Checkpoints
from cotjax.training.metrics import MetricsWriter, StepTable


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, and how often what.

    Attributes:
      steps: batches to train on.
      eval_every: steps between evaluations; 0 is only before and after.
      checkpoint_every: steps between checkpoints; 0 is only at the end.
      keep: checkpoints kept.
      resume: continue from the newest checkpoint; without one, from the beginning.
    """

    steps: int
    eval_every: int
    checkpoint_every: int
    keep: int
    resume: bool


def fit(
    stage: Stage, folder: pathlib.Path, settings: LoopSettings, table: StepTable, console: Console
) -> dict[str, Any]:
    """Trains a stage.

    Args:
      stage: the stream of batches and the loss.
      folder: the run folder; metrics.jsonl, completions.jsonl and checkpoints go there.
      settings: see `LoopSettings`.
      table: prints a line per step.
      console: for everything else.

    Returns:
      `before` and `after`: the evaluations; `steps`: how many were taken in all.

    Raises:
      InputError: resume beyond the last step, or with a checkpoint of another model; a metric
        above its limit.
    """
    checkpoints = Checkpoints(folder, keep=settings.keep)
    state, start = stage.state, 0
    latest = checkpoints.latest() if settings.resume else None
    if latest is not None:
        if latest > settings.steps:
            raise InputError(
                f"steps = {settings.steps}: {folder} has already taken {latest}. "
                f"Set steps >= {latest}."
            )
        state, position = checkpoints.restore(latest, state)
        stage.data.set_state(position)
        start = latest
    writer = MetricsWriter(folder, resumed_step=start, silent=jax.process_index() > 0)
    before = _evaluation_at(0, folder)
    if before is None:
        before, rows = stage.evaluate(state.params)
        writer.write(0, "eval", before)
        writer.write_completions(0, "before", rows)
    console.print(_sentence("before", before))

    for step in range(start, settings.steps):
        state, metrics, work = _one_step(stage, state, step)
        done = step + 1
        writer.write(done, "train", metrics)
        writer.write_completions(done, "train", work.completions)
        table.add(done, metrics)
        if work.alarm:
            console.print(f"step {done}, {work.alarm}", style="yellow")
        if wrong := _beyond_limits(metrics, work.limits):
            checkpoints.close()  # those before this step stay, this one is not kept
            raise InputError(f"step {done}: {wrong}")
        last = done == settings.steps
        if settings.eval_every and done % settings.eval_every == 0 and not last:
            numbers, _ = stage.evaluate(state.params)
            writer.write(done, "eval", numbers)
            console.print(_sentence(f"step {done}", numbers))
        if last or (settings.checkpoint_every and done % settings.checkpoint_every == 0):
            checkpoints.save(done, state, stage.data.get_state())
    after = _evaluation_at(settings.steps, folder) if start == settings.steps else None
    if after is None:
        after, rows = stage.evaluate(state.params)
        writer.write(settings.steps, "eval", after)
        writer.write_completions(settings.steps, "after", rows)
    console.print(_sentence("after", after))
    checkpoints.close()
    return {"before": before, "after": after, "steps": settings.steps}


def _one_step(stage: Stage, state: Any, step: int) -> tuple[Any, dict[str, float], Step]:
    began = time.perf_counter()
    work = stage.next_step(state.params, step)
    ready = time.perf_counter()
    for _ in range(stage.inner_updates):
        state, pairs = stage.update(state, work.batch)
    pairs = jax.device_get(pairs)
    ended = time.perf_counter()
    learned = {name: float(s) / max(float(n), 1e-9) for name, (s, n) in pairs.items()}
    metrics = work.metrics | learned | {"update_s": ended - ready, "step_s": ended - began}
    metrics["update_tok_s"] = metrics["batch_tokens"] / metrics["update_s"]
    if "data_wait_s" in metrics:
        metrics["data_wait"] = metrics["data_wait_s"] / metrics["step_s"]
    return state, metrics, work


def _beyond_limits(metrics: dict[str, float], limits: Mapping[str, Limit]) -> str:
    """A sentence for each metric that is above its limit, or NaN; empty if there are none."""
    return " ".join(
        limit.says.format(value=metrics[name])
        for name, limit in limits.items()
        if not metrics[name] <= limit.most
    )


def _evaluation_at(step: int, folder: pathlib.Path) -> dict[str, Any] | None:
    """The evaluation at a step, if an earlier part of this run has made it."""
    path = folder / "metrics.jsonl"
    for line in map(json.loads, path.read_text("utf-8").splitlines() if path.exists() else []):
        if line["step"] == step and line["kind"] == "eval":
            return {name: value for name, value in line.items() if name not in ("step", "kind")}
    return None


def _sentence(when: str, numbers: dict[str, Any]) -> str:
    words = (
        f"{when}: accuracy {numbers['accuracy']:.1%} "
        f"({numbers['accuracy_low']:.1%} to {numbers['accuracy_high']:.1%})"
    )
    if "sampled_accuracy" in numbers:
        words += f", sampled {numbers['sampled_accuracy']:.1%}"
    return words + f", {numbers['tokens']:.1f} tokens, on {numbers['problems']} held-out problems"
