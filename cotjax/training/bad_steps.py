"""Steps whose numbers are NaN or infinite: found, told with their cause, kept, and not too many.

A step is bad if an update was skipped (see `update`), if its loss or gradient is not finite all the
same, as a stage with an update of its own may give, or if the stage says so (`Step.bad`). One rule
for every stage: what is bad trains nothing, is counted and told, and several in a row end the run.
"""

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cotjax.errors import BadSteps, InputError
from cotjax.interfaces import Step, TrainState
from cotjax.training.bundle import write_bundle
from cotjax.training.finite import described, named_leaves, not_finite

LOOKED_AT = ("loss", "replay_loss", "grad_norm")  # metrics of an update that must be numbers


class BadStepWatch:
    """Looks at each step of a run.

    Args:
      folder: the run folder, where bundles go.
      most: bad steps in a row that end the run.
    """

    def __init__(self, folder: pathlib.Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._in_row, self._first, self._step = 0, "", 0

    def look(
        self,
        step: int,
        metrics: Mapping[str, float],
        work: Step,
        state: TrainState,
        newest: Callable[[], int | None],
    ) -> str:
        """What is to be told of a step; empty if its numbers are finite.

        Of the first of several bad steps in a row it writes a bundle. Nothing is fetched from a
        device for a step that is not bad.

        Args:
          step: the step, from 1.
          metrics: of the step, those of its updates included.
          work: what the update was given.
          state: after it.
          newest: gives the step of the newest checkpoint; None if there is none.
        """
        skipped = metrics.get("skipped", 0.0)
        reasons = [*_reasons(metrics, work)]
        if not (reasons or skipped):
            self._in_row = 0
            return ""
        self._in_row += 1
        self._step = step
        told = f"step {step}, {_done(skipped, work)} ({self._in_row} of at most {self._most} such "
        told += "steps in a row): "
        if self._in_row > 1:
            return f"{told}{'; '.join(reasons) or 'as the step before'}"
        found = _not_finite_of(work)
        causes = [*reasons, *_causes(work, found, state)]
        try:
            folder = write_bundle(
                self._folder,
                step=step,
                checkpoint=newest() or 0,
                causes=causes,
                metrics=metrics,
                batch=work.batch,
                completions=work.completions,
                not_finite=found,
            )
            kept = f"Everything about it is in {folder}."
        except InputError as error:  # a full disk takes nothing from what the step says
            kept = f"There is no bundle of it: {error}"
        self._first = f"The first, step {step}: {'; '.join(causes)}. {kept}"
        return f"{told}{'; '.join(causes)}. {kept}"

    def check(self) -> None:
        """Ends the run if there were too many bad steps in a row; call when the step is done.

        Raises:
          BadSteps: there were.
        """
        if self._in_row < self._most:
            return
        raise BadSteps(
            f"step {self._step}: {self._in_row} steps in a row had numbers that are NaN or infinite"
            f" (training.max_bad_steps = {self._most}). {self._first} To go on with other settings,"
            " such as a lower optimizer.learning_rate, begin another run from this one: --name NEW "
            f"--model.path {self._folder}."
        )


def _done(skipped: float, work: Step) -> str:
    """What became of a bad step."""
    if skipped == 1:
        return "its update was skipped"
    if skipped:
        return f"{skipped:.0%} of its updates were skipped"
    return "what was bad was left out" if work.bad else "its numbers are NaN or infinite"


def _reasons(metrics: Mapping[str, float], work: Step) -> Iterator[str]:
    """Why a step is bad, in words; nothing if it is not."""
    if work.bad:
        yield work.bad
    for name in LOOKED_AT:
        if name in metrics and not math.isfinite(metrics[name]):
            yield f"{name} is {metrics[name]}"


def _not_finite_of(work: Step) -> dict[str, int]:
    """How many numbers of each array of a batch are NaN or infinite.

    A top-K log-probability of −inf marks a slot without a token.
    """
    batch: dict[str, Any] = {}
    for name, leaf in named_leaves(work.batch).items():
        batch[name] = leaf.clip(min=-1e30) if _of(name, "topk_logp") else leaf
    return not_finite(batch)


def _causes(work: Step, found: Mapping[str, int], state: TrainState) -> Iterator[str]:
    """The arrays that were not finite, and whose they are."""
    leaves = named_leaves(work.batch)
    for name, count in found.items():
        who = next((words for end, words in work.about.items() if _of(name, end)), "")
        told = described({name: count}, leaves)
        yield f"{who}: {told} in the batch" if who else f"{told} in the batch"
    params = not_finite(state.params)
    if params:
        yield f"of the parameters, {described(params, named_leaves(state.params))}"
    if not (found or params or work.bad):
        whose = " or ".join(["the student", *dict.fromkeys(work.about.values())])
        yield (
            "the batch and the student's parameters are finite, so a number became too large in "
            f"{whose}"
        )


def _of(name: str, end: str) -> bool:
    """Whether the name of an array has a part: `0.hidden.1` has `hidden.1`."""
    return f".{end}." in f".{name}."
