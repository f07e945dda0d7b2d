"""GRPO: complete a masked rationale, or solve the question alone, and learn from differences.

    rule "bridge"   m = min(max(3, ⌊n/2⌋), n − 1) of n steps are masked
    rule "share"    a share of the steps, growing level by level
    rule "question" no steps are shown

Where nothing would be left to write (n = 1) or nothing is shown (all masked), the prompt is the
question alone, which is how every evaluation asks.
"""

import dataclasses
import functools

import numpy as np
from jax.sharding import Mesh

from cotjax.config import Config, MaskConfig
from cotjax.cot import Rationale, completion_mask_count, mask_steps
from cotjax.data.prompts import Prompts
from cotjax.interfaces import Record
from cotjax.stages import common
from cotjax.stages.asking import prompt_stream
from cotjax.stages.groups import GroupStage


def open_stage(config: Config, mesh: Mesh) -> GroupStage:
    """GRPO on the config's prompts; the reference is the student that it begins with."""
    student = common.open_student(config, mesh)
    train, held_out = common.open_records(config, student)
    if isinstance(train, list) and config.mask.rule != "question":
        train = common.check_prompts(student, train, config, config.data.path, longest_prompt)
    prompt = functools.partial(MaskedPrompt, config.mask, student.prompts)
    data = prompt_stream(config, student, train, prompt)
    return GroupStage(config, mesh, student, held_out, data=data)


def longest_prompt(student: common.Student, record: Record) -> str:
    """A prompt that no masked one is longer than, unless a step is shorter than its mask."""
    return student.prompts.complete(record.question, record.steps)


@dataclasses.dataclass(frozen=True)
class MaskedPrompt:
    """A record's prompt at some progress, 0–1, of the run's levels; holds no model."""

    mask: MaskConfig
    prompts: Prompts
    progress: float

    def count(self, num_steps: int) -> int:
        """How many of n steps are masked."""
        mask = self.mask
        share = mask.share_start + (mask.share_end - mask.share_start) * self.progress
        return {
            "question": num_steps,
            "bridge": completion_mask_count(num_steps),
            "share": round(share * num_steps),
        }[mask.rule]

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The prompt's text."""
        mask, size = self.mask, len(record.steps)
        count = self.count(size)
        if count == 0 or (count >= size and mask.granularity == "step"):
            return self.prompts.solve(record.question)
        masked, chosen = mask_steps(
            Rationale(steps=record.steps),
            rng=rng,
            count=count,
            mode=mask.mode,
            granularity=mask.granularity,
            keep_first=mask.keep_first,
            keep_last=mask.keep_last,
            mask_token=mask.token,
        )
        if not chosen:  # no step holds what is to be hidden, so the prompt would show everything
            return self.prompts.solve(record.question)
        return self.prompts.complete(record.question, masked.steps)
