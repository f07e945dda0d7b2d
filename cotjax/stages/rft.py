"""RFT: rejection-sampled fine-tuning on the student's own right and shortest completions.

    question -> a group of completions -> the shortest right one is accepted
             -> supervised updates on accepted ones, behind the question alone

No reward or advantage enters the loss. The samples are of the student as it is now, so that a step
is one of expert iteration. Source: Yuan et al. 2023, arXiv 2308.01825, who sample once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cotjax.config import PIPELINE
from cotjax.stages import settings

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.data.prompts import Prompts
    from cotjax.interfaces import Record
    from cotjax.stages.rejection import RejectionStage


class Rft:
    """Supervised updates on what is accepted of the student's own completions."""

    defaults: dict[str, Any] = {"batch": {"sequence_length": 336}}  # a prompt and a completion
    reads = (
        *(*PIPELINE, *settings.SAMPLING, *settings.ORDER, "batch", "supervised.kl_coefficient"),
        *("rewrite.equations", "rewrite.updates", "rewrite.min_right"),
    )
    facts = (
        *settings.ROLLOUT_FACTS,
        ("Updates", "{rewrite[updates]} a step on {batch[size]} accepted completions"),
    )
    switches = settings.ORDER_SWITCHES

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        return (
            f"the shortest right one of {config.rollout.group_size} completions of each question, "
            "as a target (cross-entropy)"
        )

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """What no group could meet, and rows that are too short for what is sampled."""
        yield from settings.acceptance_mistakes(config)
        rollout, row = config.rollout, config.batch.sequence_length
        needed = rollout.max_prompt_tokens + rollout.max_new_tokens
        if row < needed:
            yield (
                f"batch.sequence_length = {row}: an accepted completion and its prompt may have "
                f"{needed} tokens (rollout.max_prompt_tokens + rollout.max_new_tokens). Set "
                f"batch.sequence_length >= {needed}."
            )

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> RejectionStage:
        """Opens the stage.

        Raises:
          InputError: a model or a file that cannot be read, or too little memory.
        """
        from cotjax.stages.rejection import RejectionStage
        from cotjax.student.load import load_policy
        from cotjax.student.records import load_records

        student = load_policy(config, mesh)
        train, held_out = load_records(config, student.tokenizer, student.prompts)
        prompt = QuestionPrompt(student.prompts)
        return RejectionStage(config, mesh, student, train, held_out, prompt)


@dataclasses.dataclass(frozen=True)
class QuestionPrompt:
    """The question alone; holds no model, as it travels to workers."""

    prompts: Prompts

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The prompt's text."""
        del rng  # nothing is drawn
        return self.prompts.solve(record.question)
