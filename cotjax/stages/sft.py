"""Supervised fine-tuning: cross-entropy on the rationale and answer, given the question."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cotjax.stages import settings

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.stages.supervised import SupervisedStage


class Sft:
    """Questions as prompts, whole solutions as targets."""

    defaults: dict[str, Any] = {
        "steps": 1000,
        "model": {"init": "random"},
        "optimizer": {"learning_rate": 2e-3, "schedule": "cosine", "warmup_steps": 50},
        "checkpoint": {"every": 500},
    }
    reads = ("batch", "data.workers", "supervised")
    facts = (settings.ROWS_FACT,)
    switches = settings.SUPERVISED_SWITCHES

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        return "solutions as targets, each behind its question (cross-entropy)"

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> SupervisedStage:
        """Opens the stage.

        Raises:
          InputError: a model or a file that cannot be read, too little memory, or a record that
            is longer than a row.
        """
        from cotjax.stages.supervised import (
            SupervisedStage,
            solution_encoder,
            with_rows_that_fit,
        )
        from cotjax.student.load import load_policy
        from cotjax.student.records import load_records

        student = load_policy(config, mesh)
        train, held_out = load_records(config, student.tokenizer, student.prompts)
        encode = solution_encoder(student, config)
        train, notes = with_rows_that_fit(train, config, encode.longest)
        return SupervisedStage(config, mesh, student, train, held_out, encode, notes=notes)
