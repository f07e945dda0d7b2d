"""Reconstruct: from shuffled, partly masked steps to the ordered, complete rationale. BRIDGE 1.

With probability 0.7 one step becomes the mask token, then the steps are shuffled; the target is
the whole rationale, its answer and the end. The loss is cross-entropy on the target's tokens.
"""

import dataclasses
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, ReconstructConfig
from cotjax.cot import Rationale, mask_steps, render_rationale, shuffle_steps
from cotjax.data.draws import Draws
from cotjax.errors import InputError
from cotjax.interfaces import Record
from cotjax.stages import common
from cotjax.stages.supervised import Solution, SupervisedStage, open_solution


def open_stage(config: Config, mesh: Mesh) -> SupervisedStage:
    """The supervised stage on reconstruction prompts.

    Raises:
      InputError: no record of a file has a step.
    """
    student = common.open_student(config, mesh)
    train, held_out = common.open_records(config, student)
    notes: tuple[str, ...] = ()
    if isinstance(train, list):
        usable = [record for record in train if record.steps]
        if not usable:
            raise InputError(
                f'data.path = "{config.data.path}": no record has a step to reconstruct. '
                "Give rationales with at least one step."
            )
        if len(usable) < len(train):
            notes = (f"Left out {len(train) - len(usable)} records without a step.",)
        train = usable
    encode = Reconstruction(open_solution(student, config), config.reconstruct, student.tokenizer)
    return SupervisedStage(config, mesh, student, train, held_out, encode, notes=notes)


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """A record to a row, its prompt masked and shuffled as the generator draws; holds no model.

    Attributes:
      solution: encodes the target.
      settings: of the config.
      tokenizer: says where in the target a token stands.
    """

    solution: Solution
    settings: ReconstructConfig
    tokenizer: Any

    def __call__(self, record: Record, rng: Draws) -> dict[str, np.ndarray]:
        """The row."""
        settings, prompts = self.settings, self.solution.prompts
        if rng.random() < settings.solve_share:
            return self.solution(record, rng)
        masked, chosen = mask_steps(
            Rationale(steps=record.steps),
            rng=rng,
            count=settings.mask_count,
            probability=settings.mask_probability,
            mode=settings.mode,
            granularity=settings.granularity,
            keep_first=settings.keep_first,
            keep_last=settings.keep_last,
            mask_token=settings.token,
        )
        if rng.random() < settings.shuffle_probability:
            masked, _ = shuffle_steps(masked, rng=rng)
        row = self.solution.encode(record, prompts.reconstruct(record.question, masked.steps))
        if settings.masked_weight != 1 and chosen:
            emphasis = self._emphasis(record, chosen, len(row["weight"]))
            row["weight"] = row["weight"] * emphasis
        return row

    def _emphasis(self, record: Record, chosen: tuple[int, ...], length: int) -> np.ndarray:
        """[S] the weight of masked steps' tokens, 1 elsewhere; the target ends the row."""
        target = common.solution(record)
        ends = [
            len(render_rationale(Rationale(steps=record.steps[:size])))
            for size in range(len(record.steps) + 1)
        ]
        encoded = self.tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
        factors = np.ones(length, np.float32)
        first = length - len(encoded["input_ids"]) - 1  # behind the target comes the end token
        for place, (begin, end) in enumerate(encoded["offset_mapping"], first):
            if any(ends[step] < end and begin < ends[step + 1] for step in chosen):
                factors[place] = self.settings.masked_weight
        return factors
