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
from cotjax.student.groups import RolloutGroups
from cotjax.student.sampled_json import groups_as_json, groups_from_json

Sampled = tuple[RolloutGroups, dict[str, Any]]  # of a step, with its metrics


@dataclasses.dataclass
class _Begun:
    """The sampling of a step, and where the prompts stood before it."""

    result: concurrent.futures.Future[Sampled]
    before: dict[str, Any]


class Ahead:
    """Samples a step ahead; what is sampled and not yet learned from is the checkpoint's.

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
        sampled = begun.result.result() if begun else self._sample(weights, step)
        if step + 1 < self._steps:
            before = self._stream.get_state()
            self._next = _Begun(self._thread.submit(self._sample, weights, step + 1), before)
        return sampled

    def get_state(self) -> dict[str, Any]:
        """Where the prompts stand, and what is sampled of them; waits until it is.

        A sampling that has failed leaves no trace: a resumed run samples that step again.
        """
        begun = self._next
        if begun is None:
            return {"stream": self._stream.get_state(), "sampled": None}
        if begun.result.exception() is not None:
            return {"stream": begun.before, "sampled": None}
        groups, metrics = begun.result.result()
        numbers = {name: float(value) for name, value in metrics.items()}
        sampled = {"groups": groups_as_json(groups), "metrics": numbers}
        return {"stream": self._stream.get_state(), "sampled": sampled}

    def set_state(self, state: dict[str, Any], /) -> None:
        """Goes on where `get_state` stood."""
        self._stream.set_state(state["stream"])
        self._next = None
        if (held := state["sampled"]) is not None:
            done: concurrent.futures.Future[Sampled] = concurrent.futures.Future()
            done.set_result((groups_from_json(held["groups"]), held["metrics"]))
            self._next = _Begun(done, state["stream"])
