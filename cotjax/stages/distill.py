"""Distillation: examples from easy to hard, teachers from weak to strong, mixed by a schedule.

target "distribution"   the teachers' distributions over tokens, see `distill_logits`
target "text"           what the teachers write, see `distill_text`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cotjax.config import teacher_mistakes

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.interfaces import Stage


class Distill:
    """Distributions of teachers, or their texts, which cross from one tokenizer to another."""

    defaults: dict[str, Any] = {
        "steps": 200,
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 10},
        "curriculum": {"buckets": 4, "pacing": "contiguous"},
    }
    reads = (
        *("batch", "rollout", "teachers"),
        *(
            f"distill.{name}"
            for name in (
                *("target", "filter_texts", "divergence", "beta", "skew", "temperature"),
                *("temperature_end", "temperature_schedule", "scale_by_temperature", "alpha"),
                *("alpha_end", "alpha_schedule", "on_policy", "on_policy_loss"),
            )
        ),
        *(
            f"curriculum.{name}"
            for name in (
                *("examples", "difficulty", "signals", "samples", "rescore", "buckets"),
                *("direction", "pacing", "replay", "schedule", "mixing", "teacher_weights"),
                *("check_every", "patience", "min_progress", "pass_rate", "handover"),
                *("num_monitor", "ranking_problems"),
            )
        ),
    )
    facts = (
        ("Batch", "{batch[size]} rows × {batch[sequence_length]} tokens"),
        ("Teachers", "{teachers[paths]}, schedule {curriculum[schedule]}"),
        ("Loss", "{distill[divergence]}, temperature {distill[temperature]:g}"),
        (
            "Curriculum",
            "{curriculum[buckets]} buckets by {curriculum[difficulty]}, {curriculum[direction]}",
        ),
    )

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """What is wrong with the teachers, their texts and their cache."""
        yield from teacher_mistakes(config)
        yield from _mistakes(config)

    @classmethod
    def from_config(cls, config: Config, mesh: Mesh) -> Stage:
        """Opens the stage.

        Raises:
          InputError: a model, teacher or file that cannot be read, or too little memory.
        """
        if config.distill.target == "text":
            from cotjax.stages.distill_text import DistillTextStage

            return DistillTextStage(config, mesh)
        from cotjax.stages.distill_logits import DistillLogitsStage

        return DistillLogitsStage(config, mesh)


def _mistakes(config: Config) -> Iterator[str]:
    distill, curriculum, teachers = config.distill, config.curriculum, config.teachers
    cache = f'teachers.cache = "{teachers.cache}"'
    if config.data.mixture:
        yield (
            f"data.mixture = {config.data.mixture}: a curriculum puts the records of one source in "
            "order. Set data.source and data.path, and leave data.mixture empty."
        )
    if teachers.cache and distill.temperature_schedule != "constant":
        yield (
            f'distill.temperature_schedule = "{distill.temperature_schedule}": a logit cache has '
            'one temperature. Set distill.temperature_schedule = "constant", or teachers.cache '
            "empty."
        )
    if teachers.cache and curriculum.rescore:
        yield (
            "curriculum.rescore = true: which teacher is needed for which example would only be "
            "known while training. Set curriculum.rescore = false, or teachers.cache empty."
        )
    if curriculum.examples and curriculum.buckets > curriculum.examples:
        yield (
            f"curriculum.buckets = {curriculum.buckets}: more buckets than examples "
            f"(curriculum.examples = {curriculum.examples}). Set fewer buckets or more examples."
        )
    if distill.target == "text" and (teachers.cache or distill.on_policy):
        yield (
            f'distill.target = "text", {cache}, distill.on_policy = {distill.on_policy}: texts of '
            "teachers are learned as they stand. Set teachers.cache empty and distill.on_policy = "
            '0, or distill.target = "distribution".'
        )
    files = [name for name in teachers.paths if name.endswith(".jsonl")]
    if files and distill.target != "text":
        yield (
            f'teachers.paths: "{files[0]}" holds texts, which have no distribution. Set '
            'distill.target = "text", or name the model that wrote it.'
        )
    if teachers.cache and distill.on_policy:
        yield (
            f"{cache}: a cache holds teachers' logits for the data's texts, and the student "
            "writes others. Empty teachers.cache, or set distill.on_policy = 0."
        )
    if teachers.cache and distill.divergence != "forward_kl":
        yield (
            f'distill.divergence = "{distill.divergence}": a cache of top logits gives the forward '
            'KL. Set distill.divergence = "forward_kl", or teachers.cache empty.'
        )
