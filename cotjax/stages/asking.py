"""What the policy stages ask: a run's prompts, level by level."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from cotjax.config import Config
from cotjax.cot import cot_difficulty
from cotjax.cot.steps import Rationale
from cotjax.data.levels import LevelStream, make_levels
from cotjax.data.pipeline import prompt_batches
from cotjax.data.sources import Mixture
from cotjax.data.tokens import TokenCache
from cotjax.errors import InputError
from cotjax.interfaces import Record, Source
from cotjax.stages import common

# A record to its prompt's text; holds no model, as it travels to workers.
PromptFn = Callable[[Record, np.random.Generator], str]


def prompt_stream(
    config: Config,
    student: common.Student,
    train: Source | Mixture,
    prompt: Callable[[float], PromptFn],
) -> LevelStream:
    """The prompts of a run, level by level.

    Args:
      config: of the run.
      student: its tokenizer is used.
      train: records.
      prompt: a level's progress to what it asks: 0 for the first of several, 1 for the last.

    Raises:
      InputError: fewer records than levels, or levels of a mixture.
    """
    settings, rollout = config.levels, config.rollout
    sources = _levels(config, train) if settings.count > 1 else [train]
    tokens = TokenCache(student.tokenizer)

    def stream(level: int) -> Any:
        return prompt_batches(
            sources[level],
            prompt(level / (len(sources) - 1) if len(sources) > 1 else 1.0),
            tokens,
            seed=config.seed + level * 2**20,  # every level in an order of its own
            batch_size=rollout.prompts,
            max_length=rollout.max_prompt_tokens,
            widths=config.data.prompt_widths,
            workers=config.data.workers,
        )

    return LevelStream(
        [functools.partial(stream, level) for level in range(len(sources))],
        threshold=settings.threshold,
        window=settings.window,
        patience=settings.patience,
    )


def _levels(config: Config, train: Source | Mixture) -> list[Source | Mixture]:
    settings = config.levels
    train = common.in_order(train, f"levels.count = {settings.count}", "levels.count = 1")

    def difficulty(record: Record) -> float:
        return cot_difficulty(Rationale(steps=record.steps), signal=settings.signal)

    try:
        return make_levels(
            train,
            difficulty,
            num_levels=settings.count,
            pool=settings.pool,
            cumulative=settings.cumulative,
            seed=config.seed,
        )
    except ValueError as error:
        raise InputError(
            f"levels.count = {settings.count}: a bucket would be empty ({error}). "
            f"Set levels.count <= {min(settings.pool, len(train))}."
        ) from error
