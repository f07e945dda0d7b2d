"""What stops a run that samples: too little memory at first, or numbers that go wrong later."""

import dataclasses
import math
from typing import Any

import jax

from cotjax.config import Config
from cotjax.errors import InputError
from cotjax.interfaces import Limit
from cotjax.parallel.memory import free_bytes
from cotjax.rollout.memory import CacheBytes, cache_bytes
from cotjax.rollout.plan import Plan, Sampling, make_plan
from cotjax.student.generate import evaluation_sampling, prompts_at_once
from cotjax.student.load import LoadedPolicy
from cotjax.student.records import asked_limit

# Most nats per token, in the mean over a step, from the sampler's log-probabilities to the
# trainer's where policy and tokens are the same. Beyond rounding, by a factor of ten at least: see
# docs/numerics.md. A wrong mask, position, temperature or weight gives more.
SAMPLER_GAP = {"float32": 0.01, "bfloat16": 0.1, "int8": 0.1}


@dataclasses.dataclass(frozen=True)
class Use:
    """One of the ways in which a run samples.

    Attributes:
      name: as shown to the user.
      settings: of the sampler.
      prompts: how many in one call.
      width: tokens that prompts are padded to.
      width_key: the setting behind it.
      length_key: the setting behind `settings.max_new_tokens`.
      sizes: settings that make the caches smaller, with their values.
      otherwise: what helps beside them.
    """

    name: str
    settings: Sampling
    prompts: int
    width: int
    width_key: str
    length_key: str
    sizes: dict[str, Any]
    otherwise: str = ', or set rollout.cache_dtype = "bfloat16" or "int8"'


def rollout_use(config: Config, settings: Sampling) -> Use:
    """How a student samples in a step of training."""
    rollout = config.rollout
    sizes: dict[str, Any] = {"rollout.prompts": rollout.prompts}
    if settings.group_size > 1:  # else all are decoded at once
        sizes["rollout.max_concurrent"] = (
            rollout.max_concurrent if rollout.max_concurrent else "0 (all at once)"
        )
    sizes["rollout.max_new_tokens"] = rollout.max_new_tokens
    if rollout.draft_tokens:  # which a cache has columns for
        sizes["rollout.draft_tokens"] = rollout.draft_tokens
    keys = "rollout.max_prompt_tokens", "rollout.max_new_tokens"
    return Use("rollout", settings, rollout.prompts, rollout.max_prompt_tokens, *keys, sizes)


def evaluation_use(config: Config, student: LoadedPolicy, problems: int) -> Use:
    """How every stage samples in an evaluation on so many problems."""
    settings, size = evaluation_sampling(student, config), config.eval.batch_size
    prompts = prompts_at_once(size, settings.group_size, student.rollout_mesh, problems)
    sizes = {"eval.batch_size": size, "eval.max_new_tokens": settings.max_new_tokens}
    key, width = asked_limit(config)
    return Use("evaluation", settings, prompts, width, key, "eval.max_new_tokens", sizes)


def check_fits(student: LoadedPolicy, *uses: Use) -> tuple[str, ...]:
    """One sentence per use on the size of its caches; nothing is allocated.

    Raises:
      InputError: prompt and completion exceed the model's context, or a cache the memory that a
        device has left.
    """
    limit = student.architecture.max_positions
    for use in uses:
        length = use.settings.max_new_tokens
        check_context(limit, {use.width_key: use.width, use.length_key: length})
    mesh = student.rollout_mesh
    free = free_bytes(mesh)
    return tuple(check_memory(student, use, mesh.size, free) for use in uses)


def check_contexts(config: Config, max_positions: int, *, rollout_too: bool) -> None:
    """`check_context` for all that a stage samples, from its settings alone.

    Raises:
      InputError: see `check_context`.
    """
    rollout, (key, width) = config.rollout, asked_limit(config)
    check_context(max_positions, {key: width, "eval.max_new_tokens": config.eval.max_new_tokens})
    if rollout_too:
        texts = {
            "rollout.max_prompt_tokens": rollout.max_prompt_tokens,
            "rollout.max_new_tokens": rollout.max_new_tokens,
        }
        check_context(max_positions, texts)


def check_context(max_positions: int, lengths: dict[str, int]) -> None:
    """Refuses texts that are longer than what the model was made for.

    Args:
      max_positions: of the model.
      lengths: tokens of a prompt and of its completion, by the setting behind each.

    Raises:
      InputError: see above.
    """
    total = sum(lengths.values())
    if total > max_positions:
        shown = ", ".join(f"{key} = {value}" for key, value in lengths.items())
        raise InputError(
            f"{shown}: together more than the model's context of {max_positions} tokens. Lower one "
            f"of them by {total - max_positions}."
        )


def check_memory(student: LoadedPolicy, use: Use, devices: int, free: int) -> str:
    """One sentence on the caches of a use.

    Args:
      student: the model that samples.
      use: how.
      devices: over how many the caches are split.
      free: bytes that each has left.

    Raises:
      InputError: they do not fit.
    """
    shapes, plan = student.all_shapes, make_plan(use.prompts, student.sampler.lanes, use.settings)
    size = cache_bytes(student.sampler, shapes, use.settings, prompts=use.prompts, width=use.width)
    shown = f"keys and values take {_parts(size, devices)} on each device"
    if size.total // devices > free:
        sizes = _that_help(use.sizes, plan)
        settings = ", ".join(f"{key} = {value}" for key, value in sizes.items())
        raise InputError(
            f"{settings}: {shown}, which has {_shown(free)} left. Lower one of them{use.otherwise}."
        )
    more = _more_at_once(use.settings, plan)
    return f"{use.name}: {shown}, which has {_shown(free)} left.{more}"


def _that_help(sizes: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The settings that make caches smaller: devices with a slot each cannot have fewer."""
    if plan.slots > 1 or "rollout.max_concurrent" not in sizes:
        return sizes
    instead = {"rollout.completions_per_slot": plan.share} if plan.share > 1 else {}
    return {
        name: one
        for key, value in sizes.items()
        for name, one in (instead if key == "rollout.max_concurrent" else {key: value}).items()
    }


def _more_at_once(settings: Sampling, plan: Plan) -> str:
    """A sentence where more completions are decoded at once than `rollout.max_concurrent` says."""
    at_once = plan.lanes * plan.slots * plan.share
    if not settings.rows or at_once <= settings.rows:
        return ""
    fits = [one for one in range(1, plan.share) if settings.group_size % one == 0]
    least = max(
        (one for one in fits if one * plan.lanes <= settings.rows), default=min(fits, default=0)
    )
    who = (
        f"{plan.lanes} groups of devices decode a slot each, which" if plan.lanes > 1 else "a slot"
    )
    return (
        f" With rollout.max_concurrent = {settings.rows}, {at_once} completions are decoded at "
        f"once: {who} holds {plan.share}."
        + (f" Set rollout.completions_per_slot = {least}." if least else "")
    )


def start_kept(key: str, value: float, student: LoadedPolicy) -> str:
    """One sentence on the memory of a second copy of the parameters, which a setting asks for."""
    leaves = jax.tree.leaves(student.shapes)
    size = sum(
        math.prod(one.sharding.shard_shape(one.shape)) * one.dtype.itemsize for one in leaves
    )
    return (
        f"{key} = {value:g}: the parameters of the start stay beside those that are trained, "
        f"{_shown(size)} on each device; with lora.rank > 0 they would take no more."
    )


def _parts(size: CacheBytes, devices: int) -> str:
    named = {
        "prompts": size.prompts,
        "copies in slots": size.slots,
        "completions": size.own,
        "a narrower tail": size.tail,
    }
    parts = ", ".join(f"{name} {_shown(n // devices)}" for name, n in named.items() if n)
    return f"{_shown(size.total // devices)} ({parts})"


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.1f} GiB"


def bad_completions(config: Config, count: int) -> str:
    """What `Step.bad` says of completions with a NaN in their logits; empty if they do not matter.

    Args:
      config: of the run.
      count: of such completions in a step.
    """
    if config.rollout.on_nonfinite != "stop" or not count:
        return ""
    return (
        f"{count} completions met a logit that is NaN or infinite (with rollout.on_nonfinite = "
        '"count" a step without them is a good one)'
    )


def gap_limit(config: Config) -> dict[str, Limit]:
    """The gap between sampler and trainer that stops a policy stage.

    It is measured where the trainer's log-probabilities are at the sampling temperature.
    """
    rollout = config.rollout
    most, auto = rollout.max_sampler_gap, rollout.max_sampler_gap == "auto"
    if most == "auto":
        formats = {config.model.compute_dtype, rollout.cache_dtype, rollout.weights_dtype}
        most = max(SAMPLER_GAP[name] for name in formats - {"auto"})
    if not most:
        return {}
    return {
        "sampler_gap": Limit(
            most,
            "the sampler's log-probabilities are {value:.2g} nats per token from the trainer's, "
            f"above rollout.max_sampler_gap = {most:g}{' (auto)' if auto else ''}. Use "
            'model.compute_dtype = "float32" or rollout.cache_dtype = "auto", or raise '
            "rollout.max_sampler_gap; 0 switches this off.",
        )
    }
