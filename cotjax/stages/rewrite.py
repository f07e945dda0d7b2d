"""Rewrite: much shorter solutions of the problems that the student fails. BRIDGE's third stage.

    mine failures -> show question and teacher's rationale -> policy loss on the rewrite's reward
                  -> replay accepted rewrites as targets of the question alone

The replay keeps what was learned where no teacher's text is shown.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from cotjax.config import PIPELINE, Switch
from cotjax.stages import settings

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.data.prompts import Prompts
    from cotjax.interfaces import Record
    from cotjax.stages.replay import ReplayStage


class Rewrite:
    """A policy stage on mined failures, which replays the rewrites that it accepts."""

    defaults: dict[str, Any] = {
        "steps": 4,  # few rewrites are right, and 20 steps harm the student, see RESULTS.md
        "rollout": {"max_prompt_tokens": 320},
        "batch": {"sequence_length": 256},
        "mining": {"questions": 1024, "max_new_tokens": 256},
        "optimizer": {"learning_rate": 3e-5},
        "checkpoint": {"every": 2},
    }
    reads = (*PIPELINE, *settings.POLICY, "batch", "supervised.kl_coefficient", "rewrite", "mining")
    facts = settings.POLICY_FACTS
    switches = (
        *settings.POLICY_SWITCHES,
        Switch(
            *("rewrite.internalize", "= true", lambda config: config.rewrite.internalize),
            ("batch", "rewrite", "supervised"),
        ),
        Switch(
            *("mining.questions", "> 0", lambda config: config.mining.questions > 0), ("mining",)
        ),
    )

    check = staticmethod(settings.acceptance_mistakes)

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        replayed = ", then accepted ones as targets" if config.rewrite.internalize else ""
        return (
            f"shorter solutions of failed questions, {config.rollout.group_size} completions of "
            f"each compared{replayed}"
        )

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> ReplayStage:
        """Opens the stage.

        Raises:
          InputError: a model or a file that cannot be read, or too little memory.
        """
        from cotjax.stages.replay import ReplayStage
        from cotjax.student.load import load_policy
        from cotjax.student.records import load_records

        student = load_policy(config, mesh)
        train, held_out = load_records(config, student.tokenizer, student.prompts)
        prompt = RewritePrompt(student.prompts)
        return ReplayStage(config, mesh, student, train, held_out, prompt)


@dataclasses.dataclass(frozen=True)
class RewritePrompt:
    """The question and the teacher's steps, to be shortened; holds no model.

    The answer's line is not shown: a student that copies it, and nothing else, would be right.
    Nor are steps numbered: a small student would take the numbered ones for its own and go on with
    the answer.
    """

    prompts: Prompts

    def __call__(self, record: Record, rng: np.random.Generator) -> str:
        """The prompt's text."""
        del rng  # everything is shown
        return self.text(record)

    def text(self, record: Record) -> str:
        """The prompt's text."""
        return self.prompts.rewrite(record.question, self.prompts.listed(record.steps))
