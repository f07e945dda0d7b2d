"""What every stage does in the same way: what comes before its first step, and its evaluation."""

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record
from cotjax.student import guards
from cotjax.student.evaluate import evaluate
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import open_reward
from cotjax.student.verify import open_verifier


class BaseStage:
    """A stage without its batches and its loss.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained.
      held_out: what it is evaluated on.
    """

    inner_updates = 1
    resolved: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def __init__(
        self, config: Config, mesh: Mesh, student: LoadedPolicy, held_out: list[Record]
    ) -> None:
        self.config, self.mesh, self.student, self.held_out = config, mesh, student, held_out
        self.notes: tuple[str, ...] = student.notes
        self._reward_held_out = open_reward(config)

    def programs(self) -> Sequence[Program]:
        """What a run compiles."""
        return ()

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the verifier on the held-out golds; the folder is not needed."""
        del folder
        return guards.gold_check(self.held_out, open_verifier(self.config))

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems."""
        reward = self._reward_held_out
        return evaluate(self.student, self.config, self.mesh, params, self.held_out, reward)
