"""Distillation: examples from easy to hard, teachers from weak to strong, mixed by a schedule.

target "distribution"   the teachers' distributions over tokens, see `distill_logits`
target "text"           what the teachers write, see `distill_text`
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cotjax.config import Switch
from cotjax.stages import settings

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from cotjax.config import Config
    from cotjax.interfaces import Stage


ORDER = tuple(
    f"curriculum.{name}"
    for name in ("difficulty", "signals", "samples", "direction", "pacing", "replay")
)
ADAPTIVE = tuple(
    f"curriculum.{name}"
    for name in ("check_every", "patience", "min_progress", "pass_rate", "handover")
)


def _writes(config: Config) -> bool:
    """Whether the student writes texts to learn on, or teachers do."""
    return config.distill.on_policy > 0 or config.distill.target == "text"


def _samples(config: Config) -> bool:
    """Whether anyone writes at all."""
    tried = "pass_rate" in settings.measured(config) and config.curriculum.buckets > 1
    adaptive = config.curriculum.schedule == "adaptive" and config.curriculum.pass_rate < 1
    return _writes(config) or tried or adaptive


class Distill:
    """Distributions of teachers, or their texts, which cross from one tokenizer to another."""

    defaults: dict[str, Any] = {
        "steps": 200,
        "optimizer": {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 10},
        "curriculum": {"buckets": 4, "pacing": "contiguous"},
    }
    reads = (
        *("batch", "teachers", "rollout.prompts", "rollout.max_new_tokens"),
        *("rollout.temperature", "rollout.top_k", "rollout.top_p", "rollout.min_p"),
        "rollout.draft_tokens",
        "rollout.weights_dtype",
        *(key for key in settings.TEACHERS if not key.startswith("teachers.")),
        *("distill.target", "distill.filter_texts", "distill.alpha", "distill.alpha_end"),
        *("distill.alpha_schedule", "distill.on_policy"),
        *("curriculum.examples", "curriculum.rescore", "curriculum.buckets", *ORDER, *ADAPTIVE),
        "curriculum.num_monitor",
    )
    facts = (
        settings.ROWS_FACT,
        ("Teachers", "{teachers[paths]}, schedule {curriculum[schedule]}"),
        ("Loss", "{distill[divergence]}, temperature {distill[temperature]:g}"),
        (
            "Curriculum",
            "{curriculum[buckets]} buckets by {curriculum[difficulty]}, {curriculum[direction]}",
        ),
    )

    switches = (
        settings.in_buckets(*ORDER, "curriculum.rescore"),
        *settings.MEASURED,
        Switch(
            *("curriculum.schedule", '= "adaptive"'),
            *(lambda config: config.curriculum.schedule == "adaptive", ADAPTIVE),
        ),
        Switch(
            *("distill.on_policy", '> 0, or distill.target = "text"', _writes),
            (
                "rollout.prompts",
                "rollout.top_k",
                "rollout.top_p",
                "rollout.min_p",
                "rollout.draft_tokens",
                "rollout.weights_dtype",
            ),
        ),
        Switch(
            *("distill.on_policy", '> 0, or curriculum.difficulty = "pass_rate"', _samples),
            ("rollout.max_new_tokens", "rollout.temperature"),
        ),
        Switch(
            *("distill.on_policy", "> 0", lambda config: config.distill.on_policy > 0),
            ("distill.on_policy_loss",),
        ),
        Switch(
            "distill.target",
            '= "distribution"',
            lambda config: config.distill.target == "distribution",
            (
                *("distill.divergence", "distill.beta", "distill.skew", "distill.temperature"),
                *("distill.temperature_end", "distill.temperature_schedule"),
                *("distill.scale_by_temperature", "curriculum.mixing"),
                "curriculum.ranking_problems",
            ),
        ),
        Switch(
            *("distill.target", '= "text"', lambda config: config.distill.target == "text"),
            ("distill.filter_texts",),
        ),
        Switch(
            *("distill.alpha_schedule", '= "linear" or "cosine"'),
            lambda config: config.distill.alpha_schedule != "constant",
            ("distill.alpha_end",),
        ),
        Switch(
            *("curriculum.difficulty", '= "student_loss" or "pass_rate"', settings.needs_student),
            ("curriculum.rescore",),
        ),
        *settings.DIVERGENCE_SWITCHES,
    )

    @staticmethod
    def aim(config: Config) -> str:
        """What is learned from what."""
        teachers = len(config.teachers.paths)
        whose = f"{teachers} teachers" if teachers > 1 else "a teacher"
        if config.distill.target == "text":
            return f"texts that {whose} wrote, as targets"
        on = " on its own texts too" if config.distill.on_policy else ""
        return f"the distributions of {whose} over the next token{on}"

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """What is wrong with the teachers, their texts and their cache."""
        yield from settings.teacher_mistakes(config)
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
    # Of one teacher at a time no mixture is made; a cache has the top logits of each.
    alone = "adaptive" if curriculum.handover == 1 else "step"
    mixed = len(teachers.paths) > 1 and curriculum.schedule not in ("step", alone)
    if teachers.cache and mixed and curriculum.mixing == "logit":
        yield (
            f'{cache}, curriculum.mixing = "logit": the top logits of several teachers give their '
            'mixture in probability space alone. Set curriculum.mixing = "probability", or '
            "teachers.cache empty."
        )
    if distill.on_policy:
        yield from settings.gap_mistakes(config, f"distill.on_policy = {distill.on_policy}")
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
    shown = [name for name, entry in settings.teacher_entries(config).items() if entry.share]
    if shown and distill.target == "text":
        yield (
            f'distill.target = "text", teachers.paths: "{shown[0]}": a text is written for the '
            "question alone, as the student will have to. Leave the share behind @ out, or set "
            'distill.target = "distribution".'
        )
    files = [name for name in teachers.paths if name.endswith(".jsonl")]
    if files and distill.target != "text":
        yield (
            f'teachers.paths: "{files[0]}" holds texts, which have no distribution. Set '
            'distill.target = "text", or name the model that wrote it.'
        )
    own = [name for name, entry in settings.teacher_entries(config).items() if entry.is_self]
    if own and teachers.cache:
        yield (
            f'{cache}, teachers.paths: "{own[0]}": a cache is keyed by the files of a teacher, '
            "which the student's start need not have. Name the model by its path, or leave "
            "teachers.cache empty."
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
