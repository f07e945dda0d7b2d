"""Reconstruct: from shuffled, partly masked steps to the ordered, complete rationale. BRIDGE 1.

With probability 0.7 one step becomes the mask token, then the steps are shuffled; the target is
the whole rationale, its answer and the end. The loss is cross-entropy on the target's tokens.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cotjax.config import MaskConfig, ReconstructConfig, Switch
from cotjax.cot import Rationale, mask_steps, render_rationale, shuffle_steps
from cotjax.stages import settings

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.data.draws import Draws
    from cotjax.interfaces import Record
    from cotjax.stages.supervised import Solution, SupervisedStage


class Reconstruct:
    """Prompts of shuffled, masked steps; whole solutions as targets."""

    defaults: dict[str, Any] = {
        "steps": 150,
        "reconstruct": {"solve_share": 0.3},
        "batch": {"size": 16, "sequence_length": 576},
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 10},
        "checkpoint": {"every": 50},
    }
    reads = (
        *("batch", "data.workers", "supervised", "reconstruct"),
        *("mask.token", "mask.mode", "mask.granularity", "mask.keep_first", "mask.keep_last"),
    )
    facts = (
        settings.ROWS_FACT,
        (
            "Prompts",
            "{reconstruct[mask_count]} step masked with probability "
            "{reconstruct[mask_probability]}, shuffled with {reconstruct[shuffle_probability]}",
        ),
    )

    switches = (
        *settings.SUPERVISED_SWITCHES,
        Switch(
            "reconstruct.mask_probability",
            "> 0",
            lambda config: config.reconstruct.mask_probability > 0,
            ("mask", "reconstruct.mask_count", "reconstruct.masked_weight"),
        ),
    )

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        return "whole solutions as targets, behind their shuffled, partly masked steps"

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> SupervisedStage:
        """Opens the stage.

        Raises:
          InputError: no record of a file has a step; or see `sft.Sft`.
        """
        from cotjax.stages.supervised import (
            SupervisedStage,
            solution_encoder,
            with_rows_that_fit,
        )
        from cotjax.student.load import load_policy
        from cotjax.student.records import load_records, with_steps

        student = load_policy(config, mesh)
        train, held_out = load_records(config, student.tokenizer, student.prompts)
        notes: list[str] = []

        def usable(records: list[Record]) -> list[Record]:
            kept, without = with_steps(
                records,
                f'data.path = "{config.data.path}": no record has a step to reconstruct. '
                "Give rationales with at least one step.",
            )
            if without:
                notes.append(f"Left out {without} records without a step.")
            return kept

        train = train.checked(usable)
        encode = Reconstruction(
            solution_encoder(student, config), config.reconstruct, config.mask, student.tokenizer
        )
        train, too_long = with_rows_that_fit(train, config, encode.longest)
        notes += too_long
        return SupervisedStage(config, mesh, student, train, held_out, encode, notes=tuple(notes))


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """A record to a row, its prompt masked and shuffled as the generator draws; holds no model.

    Attributes:
      solution: encodes the target.
      settings: how often and how much is masked and shuffled.
      mask: what is hidden, and how.
      tokenizer: says where in the target a token stands.
    """

    solution: Solution
    settings: ReconstructConfig
    mask: MaskConfig
    tokenizer: Any

    def longest(self, record: Record) -> int:
        """The length of the row if no step is masked, tokens."""
        if self.settings.solve_share == 1:
            return self.solution.longest(record)
        return self.solution.length(
            record, self.solution.prompts.reconstruct(record.question, record.steps)
        )

    def __call__(self, record: Record, rng: Draws) -> dict[str, np.ndarray]:
        """The row."""
        settings, mask, prompts = self.settings, self.mask, self.solution.prompts
        if rng.random() < settings.solve_share:
            return self.solution(record, rng)
        masked, chosen = mask_steps(
            Rationale(steps=record.steps),
            rng=rng,
            count=settings.mask_count,
            probability=settings.mask_probability,
            mode=mask.mode,
            granularity=mask.granularity,
            keep_first=mask.keep_first,
            keep_last=mask.keep_last,
            mask_token=mask.token,
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
        target = render_rationale(Rationale(steps=record.steps, answer=record.answer))
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
