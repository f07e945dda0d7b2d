"""The optimizer, and settings that move with the step."""

from collections.abc import Callable
from typing import Any

import optax

from cotjax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, num_updates: int) -> optax.GradientTransformation:
    """AdamW behind a clip of the global gradient norm; linear warm-up, then the schedule."""
    peak, warmup = config.learning_rate, config.warmup_steps
    decay = max(num_updates - warmup, 1)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "linear": lambda: optax.linear_schedule(peak, 0.0, decay),
        "cosine": lambda: optax.cosine_decay_schedule(peak, decay),
    }[config.schedule]()
    rate = after
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay),
    )


def ramp(kind: str, start: float, end: float, steps: int) -> Callable[[int], float]:
    """An optax schedule by name, from `start` at step 0 to `end` at the last step.

    Example:
      >>> [float(ramp("cosine", 2.0, 1.0, 3)(step)) for step in range(3)]
      [2.0, 1.5, 1.0]
    """
    last = max(steps - 1, 1)
    cosine = optax.cosine_decay_schedule(1.0, last)
    schedules: dict[str, Callable[[int], Any]] = {
        "constant": optax.constant_schedule(start),
        "linear": optax.linear_schedule(start, end, last),
        "cosine": lambda step: end + (start - end) * cosine(step),
    }
    return lambda step: float(schedules[kind](step))
