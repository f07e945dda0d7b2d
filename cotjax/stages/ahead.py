"""Sampling the next step while this one learns, on devices of its own.

Without it a step is: sample with the parameters, learn from the samples. With it, the samples of
step n come from the parameters before step n - 1, one update older, and devices that sample wait
for none that learn:

    learning devices    update 0      update 1      update 2
    sampling devices    sample 1      sample 2      sample 3      (sample 0 came first)
                        of params 0   of params 1   of params 2
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any

from cotjax.interfaces import DataStream
from cotjax.progress import waiting
from cotjax.student.groups import RolloutGroups
from cotjax.student.sampled_json import groups_as_json, groups_from_json
from cotjax.training.deferred import Deferred

Sampled = tuple[RolloutGroups, dict[str, Any]]  # of a step, with its metrics


@dataclasses.dataclass
class _Begun:
    """The sampling of a step, and where the prompts stood before and stand after it."""

    result: concurrent.futures.Future[tuple[Sampled, dict[str, Any]]]
    before: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint; waits until it is done.

        Of a sampling that has failed nothing is kept: a resumed run samples that step again, with
        the parameters that it then has.
        """
        if self.result.exception() is not None:
            return {"stream": self.before, "sampled": None}
        (groups, metrics), after = self.result.result()
        numbers = {
            name: one.item() if hasattr(one, "item") else one for name, one in metrics.items()
        }
        return {"stream": after, "sampled": {"groups": groups_as_json(groups), "metrics": numbers}}


class Ahead:
    """Samples a step ahead; what is sampled and not yet learned from is the checkpoint's.

    What is sampled for a step that a budget of tokens leaves out is counted nowhere.

    Args:
      stream: of the prompts, which the sampling moves on.
      sample: the parameters as sampling wants them, and a step, to what is sampled for it.
      steps: of the run; nothing is sampled for a step beyond.
    """

    def __init__(
        self, stream: DataStream, sample: Callable[[Any, int], Sampled], steps: int
    ) -> None:
        self._stream, self._sample, self._steps = stream, sample, steps
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "sampling")
        self._next: _Begun | None = None

    def take(self, weights: Any, step: int) -> Sampled:
        """What was sampled for a step; begins the sampling of the next one.

        Args:
          weights: of the parameters before the step's update, as sampling wants them.
          step: 0 is the first.

        Raises:
          Exception: whatever the sampling of this step has raised.
        """
        begun, self._next = self._next, None
        sampled = begun.result.result()[0] if begun else self._sample(weights, step)
        if step + 1 < self._steps:
            before = self._stream.get_state()
            self._next = _Begun(self._thread.submit(self._work, weights, step + 1), before)
        return sampled

    def _work(self, weights: Any, step: int) -> tuple[Sampled, dict[str, Any]]:
        return self._sample(weights, step), self._stream.get_state()

    def close(self) -> None:
        """Ends the thread; what it is sampling is waited for, and thrown away."""
        begun, self._next = self._next, None
        if begun is None or begun.result.done():
            self._thread.shutdown()
            return
        with waiting("waiting for completions of the next step, which nobody needs"):
            self._thread.shutdown(cancel_futures=True)

    def get_state(self) -> dict[str, Any]:
        """Where the prompts stand, and what is sampled of them; waits for nothing."""
        begun = self._next
        if begun is None:
            return {"ahead": {"stream": self._stream.get_state(), "sampled": None}}
        return {"ahead": Deferred(begun.as_json)}

    def set_state(self, state: dict[str, Any], /) -> None:
        """Goes on where `get_state` stood."""
        held = state["ahead"]
        self._stream.set_state(held["stream"])
        self._next = None
        if (sampled := held["sampled"]) is not None:
            done: concurrent.futures.Future[tuple[Sampled, dict[str, Any]]]
            done = concurrent.futures.Future()
            groups = groups_from_json(sampled["groups"])
            done.set_result(((groups, sampled["metrics"]), held["stream"]))
            self._next = _Begun(done, held["stream"])
