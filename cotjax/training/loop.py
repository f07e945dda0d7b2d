"""The loop that every stage shares: evaluate, step, log, save, evaluate again.

Resuming continues as if nothing had happened: the state and the data position come from the
checkpoint, and every random key is folded from the seed and the step.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from cotjax.errors import BadSteps, InputError, PluginError, Stopped
from cotjax.interfaces import Limit, Stage, Step, SumCounts, TrainState
from cotjax.progress import waiting
from cotjax.start_profile import started
from cotjax.storage import rows_of
from cotjax.training.bad_steps import BadStepWatch
from cotjax.training.checkpoint import Checkpoints, set_damaged_aside
from cotjax.training.detectors import Alarm, Watch
from cotjax.training.metrics import MetricsWriter, plain_numbers
from cotjax.training.printer import Printer
from cotjax.training.signals import StopSignals
from cotjax.training.trackers import Trackers
from cotjax.training.update import on_host, with_skipped
from cotjax.training.used import UsedTokens

Look = Callable[[Any, Step], Step]  # parameters before the update, and what they are updated on


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """How long, and how often what.

    Attributes:
      steps: batches to train on.
      eval_every: steps between evaluations; 0 is only before and after.
      eval_at: shares at which it is evaluated too: of the budget, or of the steps without one.
      budget: tokens that end the run; 0 is no limit.
      patience: evaluations without a lower `solve_loss` that end the run; 0 is no such end.
      checkpoint_every: steps between checkpoints; 0 is only at the end.
      keep: checkpoints kept.
      resume: continue from the newest whole checkpoint; without any, from the beginning.
      shaped_by: the settings that each checkpoint says it was made with; None is not said.
      max_bad_steps: steps in a row whose numbers are NaN or infinite that end the run.
    """

    steps: int
    eval_every: int
    checkpoint_every: int
    keep: int
    resume: bool
    eval_at: tuple[float, ...] = ()
    budget: int = 0
    patience: int = 0
    shaped_by: Mapping[str, Any] | None = None
    max_bad_steps: int = 3


def fit(
    stage: Stage,
    folder: pathlib.Path,
    settings: LoopSettings,
    printer: Printer,
    *,
    saved: Callable[[int, int], None] = lambda first_step, last_step: None,
    evaluated: Callable[[], None] = lambda: None,
    signals: StopSignals | None = None,
    trackers: Trackers | None = None,
) -> dict[str, Any]:
    """Trains a stage.

    Args:
      stage: the stream of batches and the loss.
      folder: the run folder; metrics, completions, digests, alarms (.jsonl) and checkpoints go
        there.
      settings: see `LoopSettings`.
      printer: is told what happens.
      saved: is told the step that it began with and the newest one, at first and after each
        checkpoint.
      evaluated: is told of each evaluation that was written.
      signals: that end the run between two steps; None hears none.
      trackers: that are told what is written; None tells nobody.

    Returns:
      `before` and `after`: the evaluations; `steps`: how many were taken in all; `used_tokens`:
      what they were trained on, and what was sampled and mined for it.

    Raises:
      InputError: resume beyond the last step, or with a checkpoint of another model or other
        settings, or with none that is whole; a metric above its limit; a full disk.
      NotFinite: what the run begins or goes on with, or would save, holds a NaN or an infinity.
      BadSteps: several steps in a row had such numbers; the last of them is saved, and there is a
        bundle of the first.
      PluginError: a user's function did something wrong; the last completed step is saved.
      Stopped: a signal came; the last completed step is saved.
    """
    if settings.resume and (lost := set_damaged_aside(folder)):
        printer.warn(lost)
    checkpoints = Checkpoints(folder, keep=settings.keep, settings=settings.shaped_by)
    state, start, used, evaluations = stage.state, 0, None, {}
    latest = checkpoints.latest() if settings.resume else None
    if latest is not None:
        if latest > settings.steps:
            raise InputError(
                f"steps = {settings.steps}: {folder} has already taken {latest}. "
                f"Set steps >= {latest}."
            )
        state, position = checkpoints.restore(latest, state)
        stage.data.set_state(position)
        start, used = latest, checkpoints.used(latest)
        evaluations = checkpoints.evaluations(latest)
    saved(start, start)
    if trackers:
        trackers.begin(start if settings.resume else None)
    if settings.resume:
        printer.note(f"note: {_goes_on(folder, start)}")
    silent = jax.process_index() > 0
    writer = MetricsWriter(folder, resumed_step=start, silent=silent, also=trackers)
    writer.insert_evaluations(evaluations)
    for repair in writer.repairs:
        printer.warn(repair)
    told = functools.partial(saved, start)
    run = _Run(stage, folder, settings, printer, checkpoints, writer, start, state, told,
               evaluated, signals or StopSignals())  # fmt: skip
    if used is not None:
        run.used = used  # right whatever became of metrics.jsonl
    try:
        result = run.train()
    except (BadSteps, PluginError, Stopped) as error:
        run.save_completed()
        checkpoints.close()
        way_on = "Nothing is trained yet: --resume begins again."
        if run.done:
            way_on = f"The run is saved after step {run.done}: --resume goes on from there."
        raise error.and_then(way_on) from error
    except BaseException as error:
        # Those before this step stay, this one is not kept; what is being written is waited for.
        with contextlib.suppress(InputError):
            checkpoints.close()
        if not isinstance(error, InputError) and (last := checkpoints.latest()):
            error.add_note(f"The run is whole up to step {last}: --resume goes on from there.")
        raise
    checkpoints.close()
    return result


def _goes_on(folder: pathlib.Path, start: int) -> str:
    """Where a resumed run goes on, and which of the steps that it has written are taken again."""
    lines = [line for line in rows_of(folder / "metrics.jsonl") if line["kind"] == "train"]
    last = max((line["step"] for line in lines), default=0)
    again = f"; steps {start + 1} to {last} are taken again" if last > start + 1 else ""
    again = f"; step {last} is taken again" if last == start + 1 else again
    return f"the run {f'goes on after step {start}' if start else 'begins again'}{again}."


@dataclasses.dataclass
class _Run:
    """A run on its way; `done`, `state` and the data's `place` are of the last completed step."""

    stage: Stage
    folder: pathlib.Path
    settings: LoopSettings
    printer: Printer
    checkpoints: Checkpoints
    writer: MetricsWriter
    done: int
    state: TrainState
    saved: Callable[[int], None]
    evaluated: Callable[[], None]
    signals: StopSignals
    place: dict[str, Any] = dataclasses.field(default_factory=dict)
    used: UsedTokens = UsedTokens()
    evaluations: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)  # by step
    watch: Watch = dataclasses.field(default_factory=Watch)

    def __post_init__(self) -> None:
        digests = [one | {"kind": "digest"} for one in rows_of(self.folder / "digests.jsonl")]
        metrics = rows_of(self.folder / "metrics.jsonl")
        self.watch = Watch([*metrics, *digests])
        self.bad = BadStepWatch(self.folder, self.settings.max_bad_steps)
        for line in metrics:
            if line["step"] > self.done:
                continue
            if line["kind"] == "train":  # of a run whose checkpoint is older than the count
                self.used = self.used.plus(line)
            elif line["kind"] == "eval":
                numbers = {name: one for name, one in line.items() if name not in ("step", "kind")}
                self.evaluations.setdefault(line["step"], numbers)

    def train(self) -> dict[str, Any]:
        """Evaluates, takes the steps that are left, and evaluates again."""
        every = self.settings.checkpoint_every
        started("checkpoints, metrics")
        before = self._evaluation(0, "before")
        started("evaluation before")
        if self.done:
            self.writer.name_end(None if not self._has_ended() else self.done)
        if self._is_due() and self.done not in self.evaluations:
            self._evaluation(self.done)  # the run had ended in it
        while not self._has_ended():
            state, metrics, work = one_step(self.stage, self.state, self.done)
            started("the first step", last=True)
            used = self.used.plus(metrics)
            self._tell(self.done + 1, metrics | {"used_tokens": used.total}, work, state)
            # Read now: the next step may fail when it has moved the data on.
            self.done, self.state, self.place = self.done + 1, state, self.stage.data.get_state()
            self.used = used
            self.bad.check()
            self.signals.check()
            self.checkpoints.check()
            if self._is_due():
                self._evaluation(self.done)
            if self._has_ended() or (every and self.done % every == 0):
                self.save_completed()
        if patience := self._is_stalled() and self.settings.patience:
            ended = f"ended, as {patience} evaluations had no lower solve_loss"
            self.printer.note(f"step {self.done}: {ended}")
        after = self._evaluation(self.done, "after")
        used = self.used.by_use()
        return {"before": before, "after": after, "steps": self.done, "used_tokens": used}

    def save_completed(self) -> None:
        """Saves the last completed step, unless that is done or nothing was trained."""
        if self.done and self.checkpoints.latest() != self.done:
            known = {step: plain_numbers(one) for step, one in self.evaluations.items()}
            self.checkpoints.save(self.done, self.state, self.place, self.used, known)
            self.saved(self.done)

    def _is_due(self) -> bool:
        """Whether the last completed step is evaluated, in the middle of the run."""
        every, done = self.settings.eval_every, self.done
        if not done or self._has_ended():
            return False
        budget, used = self.settings.budget, self.used
        # Where tokens end a run, its first steps may be short ones: their number says too much.
        steps = done / self.settings.steps, (done - 1) / self.settings.steps
        now, before = (used.total / budget, used.before / budget) if budget else steps
        crossed = any(before < share <= now for share in self.settings.eval_at)
        return crossed or (bool(every) and done % every == 0)

    def _share(self, step: int, tokens: float) -> float:
        """How much of the run is done after a step, 0–1, by tokens if they end it."""
        settings = self.settings
        of_steps = step / settings.steps
        return max(of_steps, tokens / settings.budget) if settings.budget else of_steps

    def _has_ended(self) -> bool:
        return self._share(self.done, self.used.total) >= 1 or self._is_stalled()

    def _is_stalled(self) -> bool:
        """Whether the last evaluations, as many as the patience, had no lower `solve_loss`."""
        patience = self.settings.patience
        if not patience:
            return False
        losses = [_loss(numbers) for _, numbers in sorted(self.evaluations.items())]
        return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])

    def _tell(self, done: int, metrics: dict[str, float], work: Step, state: TrainState) -> None:
        """Writes down what a step gave, and the state after it.

        Raises:
          InputError: a metric is above its limit.
        """
        self.writer.write(done, "train", metrics)
        self.writer.write_completions(done, "train", work.completions)
        digests = self.writer.write_digests(done, work)
        self.printer.step(done, metrics)
        for line in work.alarm.splitlines():
            name, _, says = line.partition(": ")
            self._alarm(done, Alarm(done, name, says))
        self._look({"step": done, "kind": "train", **plain_numbers(metrics)})
        self._look({"step": done, "kind": "digest", **digests})
        if told := self.bad.look(done, metrics, work, state, self.checkpoints.latest):
            self._alarm(done, Alarm(done, "not finite", told.partition(", ")[2]))
        elif wrong := _beyond_limits(metrics, work.limits):
            raise InputError(f"step {done}: {wrong}")

    def _look(self, line: Mapping[str, Any]) -> None:
        """Lets the detectors look at a line as it was written."""
        for alarm in self.watch(line):
            self._alarm(line["step"], alarm)

    def _alarm(self, step: int, alarm: Alarm) -> None:
        self.writer.write_alarm(step, alarm.name, alarm.says)
        self.printer.alarm(step, alarm.name, alarm.says)

    def _evaluation(self, step: int, when: str = "eval") -> dict[str, Any]:
        """The evaluation at a step, unless it is made already, perhaps by an earlier part.

        Args:
          step: training steps done.
          when: `before`, `after`, or `eval` in the middle of the run.

        Raises:
          InputError: it lacks what the patience looks at.
        """
        numbers = self.evaluations.get(step)
        new = numbers is None
        if numbers is None:
            with self.signals.at_once():
                numbers, rows = self.stage.evaluate(self.state.params)
            if self.settings.patience and "solve_loss" not in numbers:
                raise InputError(
                    f"supervised.patience = {self.settings.patience}: the evaluation has no "
                    "solve_loss, for its stage measures none or no held-out solution fits a row. "
                    "Raise batch.sequence_length, or set supervised.patience = 0."
                )
            self.writer.write(step, "eval", numbers)
            self.evaluations[step] = numbers
            self._look({"step": step, "kind": "eval", **plain_numbers(numbers)})
            when = "after" if self._is_stalled() else when  # nothing follows it
            self.writer.write_completions(step, when, rows)
            self.evaluated()
        self.printer.evaluation(step, when, numbers, new=new)
        return numbers


def _loss(numbers: Mapping[str, Any]) -> float:
    """An evaluation's `solve_loss`; what is not finite, which a file holds as null, is no lower."""
    loss = numbers.get("solve_loss")
    return math.inf if loss is None or not math.isfinite(loss) else loss


def one_step(
    stage: Stage, state: TrainState, step: int, look: Look = lambda params, work: work
) -> tuple[TrainState, dict[str, float], Step]:
    """Takes a step.

    Args:
      stage: whose data stands before it.
      state: its buffers are reused.
      step: 0 is the first.
      look: is shown a step before its update, and says on what the update is made.

    Returns:
      the next state, metrics, and what the stage gave for the step.
    """
    began = time.perf_counter()
    work = stage.next_step(state.params, step)
    work = look(state.params, work)
    ready = time.perf_counter()
    updates: list[SumCounts] = []
    with waiting("updating"):
        for _ in range(stage.inner_updates):
            state, pairs = stage.update(state, work.batch)
            updates.append(pairs)
        *earlier, last = updates
        learned = on_host(with_skipped(last, *earlier))
    ended = time.perf_counter()
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
