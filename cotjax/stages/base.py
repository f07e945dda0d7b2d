"""What every stage does in the same way: its state, its update, its evaluation, its programs."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cotjax.config import Config
from cotjax.interfaces import Program, Record, SumCounts, TrainState
from cotjax.student import guards
from cotjax.student.base_model import note_base
from cotjax.student.drift import StyleDrift
from cotjax.student.evaluate import evaluate, evaluation_programs
from cotjax.student.health import check_template
from cotjax.student.load import LoadedPolicy
from cotjax.student.rewards import open_reward
from cotjax.training.finite import check_finite, finite_programs
from cotjax.training.optimizer import make_optimizer
from cotjax.training.update import Frozen, LossFn, Update, init_program, init_state, make_update


class BaseStage:
    """A stage without its batches and its loss; made from shapes, weights are read when needed.

    Args:
      config: of the run.
      mesh: devices.
      student: the model that is trained.
      held_out: what it is evaluated on.

    Raises:
      InputError: the student's prompts lack the question.

    Attributes:
      keeps_start: whether the parameters of the start are read while it trains.
      state_shapes: of the training state; there after `learn_from`.
      drift: adds to an evaluation how far the student has moved from how it wrote; None does not.
    """

    inner_updates = 1
    resolved: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    keeps_start = True

    def __init__(
        self, config: Config, mesh: Mesh, student: LoadedPolicy, held_out: list[Record]
    ) -> None:
        self.config, self.mesh, self.student, self.held_out = config, mesh, student, held_out
        check_template(student.tokenizer, student.prompts, f'model.path = "{config.model.path}"')
        self.notes: tuple[str, ...] = student.notes
        self._state: TrainState | None = None
        self.drift: StyleDrift | None = None
        self.reward_held_out = open_reward(config)

    def learn_from(
        self, loss: LossFn, num_updates: int, *, scores_reference: bool = False, scan: bool = True
    ) -> None:
        """Sets the loss.

        Args:
          loss: of a micro-batch.
          num_updates: of the run, for the schedule of the learning rate.
          scores_reference: whether the loss takes the parameters of the reference.
          scan: see `make_update`.
        """
        student = self.student
        self.optimizer = make_optimizer(self.config.optimizer, num_updates)
        self.state_shapes = init_state(student.shapes, self.optimizer)
        self._scores_reference = scores_reference
        self._update = self.updating(loss, scan=scan)

    def updating(self, loss: LossFn, *, scan: bool = True) -> Update:
        """The update by a loss; arguments as for `learn_from`."""
        join = self.student.policy.join
        return make_update(loss, self.optimizer, self.state_shapes, join=join, scan=scan)

    @functools.cached_property
    def _copy(self) -> Any:
        """Of `jax.jit`: parameters to others that are equal, and lie where they lay."""
        place = jax.tree.map(lambda leaf: leaf.sharding, self.student.shapes)
        return jax.jit(copied, out_shardings=place)

    @property
    def state(self) -> TrainState:
        """The training state to begin with; of the student's weights, unless another is set.

        Raises:
          NotFinite: a weight is NaN or infinite.
        """
        if self._state is None:
            student, path = self.student, self.config.model.path
            fix = "Copy the weights from their origin again, or set model.path to others."
            params = student.params
            check_finite(student.all_params(params), f'model.path = "{path}"', fix)
            if self.keeps_start:  # the update reuses the state's buffers
                params = self._copy(params)
            self._state = init_state(params, self.optimizer)
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state

    @functools.cached_property
    def frozen(self) -> Frozen:
        """What the loss reads and no update changes."""
        student = self.student
        return Frozen(student.base, student.reference if self._scores_reference else None)

    @property
    def frozen_shapes(self) -> Frozen:
        """The shapes of `frozen`."""
        reference = self.student.reference_shapes if self._scores_reference else None
        return Frozen(self.student.base_shapes, reference)

    def update(self, state: TrainState, batch: list[Any]) -> tuple[TrainState, SumCounts]:
        """One optimizer update on the micro-batches of a step."""
        return self._update(state, batch, self.frozen)

    def programs(self) -> Sequence[Program]:
        """Those of the evaluation and of the first state, and what looks for a NaN in it."""
        copies = (Program("a copy of the start", self._copy, (self.student.shapes,)),)
        return (
            *evaluation_programs(self.student, self.config, self.mesh, len(self.held_out)),
            *(copies if self.keeps_start else ()),
            *(self.drift.programs() if self.drift else ()),
            init_program(self.student.shapes, self.optimizer),
            *finite_programs((self.state_shapes, self.student.base_shapes)),
        )

    def update_programs(self, micros: Sequence[Any], *, count: int = 1) -> Sequence[Program]:
        """Those of the update; arguments as for `Update.programs`."""
        return tuple(
            self._update.programs(
                "update", self.state_shapes, micros, count=count, frozen=self.frozen_shapes
            )
        )

    def prepare(self, folder: pathlib.Path) -> tuple[str, ...]:
        """Checks the verifiers on the held-out golds; what an earlier part left is looked up.

        That is the base of an adapter, and the student's first answers.

        Raises:
          InputError: a run that goes on with another base.
        """
        if self.student.base:
            note_base(folder, self.config.model.path, self.student.base)
        if self.drift:
            self.drift.open(folder)
        return guards.gold_checks(self.config, self.held_out)

    def evaluate(self, params: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracy on the held-out problems, and the student's `drift` if that is looked at."""
        numbers, rows = evaluate(
            self.student, self.config, self.mesh, params, self.held_out, self.reward_held_out
        )
        return numbers | (self.drift(params, rows) if self.drift else {}), rows


def copied(params: Any) -> Any:
    """Equal arrays in other memory."""
    return jax.tree.map(jnp.copy, params)
