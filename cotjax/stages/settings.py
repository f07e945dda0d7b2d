"""What several stages declare alike: settings that they read, those that switch them, and facts.

A stage's file names what it takes of these; it imports no JAX, and nor does this one.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from cotjax.config import Config, Switch, TeacherName, name_of, parse_teacher
from cotjax.errors import InputError

ROWS_FACT = ("Batch", "{batch[size]} rows × {batch[sequence_length]} tokens")
ROLLOUT_FACTS = (
    ("Batch", "{rollout[prompts]} prompts × {rollout[group_size]} completions"),
    ("Sampling", "temperature {rollout[temperature]:g}, ≤ {rollout[max_new_tokens]} tokens"),
)
POLICY_FACTS = (
    *ROLLOUT_FACTS,
    (
        "Objective",
        "preset {policy[preset]}, objective {policy[objective]}, "
        "clip {policy[clip_low]}/{policy[clip_high]}, "
        "KL {policy[kl_coefficient]} ({policy[kl_estimator]})",
    ),
)


def _keys(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


def _is(section: str, name: str, *values: Any) -> Callable[[Config], bool]:
    return lambda config: getattr(getattr(config, section), name) in values


def _positive(section: str, name: str) -> Callable[[Config], bool]:
    return lambda config: getattr(getattr(config, section), name) > 0


# The settings of a stage that samples: its prompts bucket by bucket, and its rollout.
BUCKETS = _keys(
    "curriculum", "difficulty signals samples direction pacing replay"
    " advance_accuracy advance_window advance_after"
)  # fmt: skip
ORDER = ("curriculum.buckets", "curriculum.examples", *BUCKETS)
SAMPLING = _keys(
    "rollout", "prompts group_size max_prompt_tokens max_new_tokens temperature stop top_k top_p"
    " min_p max_concurrent completions_per_slot draft_tokens cache_dtype weights_dtype"
    " on_nonfinite"
)  # fmt: skip
POLICY = ("rollout", "policy", *ORDER)  # a policy loss also measures the gap to its sampler

# A difficulty is measured by signals, of which one needs samples.
MEASURED = (
    Switch(
        "curriculum.difficulty",
        '= "rank_fusion"',
        _is("curriculum", "difficulty", "rank_fusion"),
        ("curriculum.signals",),
    ),
    Switch(
        "curriculum.difficulty",
        '= "pass_rate", or fuse that',
        lambda config: "pass_rate" in measured(config),
        ("curriculum.samples",),
    ),
)


def measured(config: Config) -> tuple[str, ...]:
    """What the difficulty of a record is made of; a user's function by its name."""
    curriculum = config.curriculum
    if curriculum.difficulty == "rank_fusion":
        return curriculum.signals
    return (name_of(curriculum.difficulty),)


def needs_student(config: Config) -> bool:
    """Whether the difficulty of a record changes as the student learns, or may."""
    return any(
        name not in ("cot_steps", "cot_tokens", "cot_operations") for name in measured(config)
    )


def in_buckets(*keys: str) -> Switch:
    """Settings of the order of the data, which is one bucket without `curriculum.buckets`."""
    return Switch("curriculum.buckets", "> 1", lambda config: config.curriculum.buckets > 1, keys)


SUPERVISED_SWITCHES = (
    Switch(
        *("eval.every", "> 0, or eval.at to shares of the run"),
        lambda config: bool(config.eval.every or config.eval.at),
        ("supervised.patience",),
    ),
)
ORDER_SWITCHES = (in_buckets("curriculum.examples", *BUCKETS), *MEASURED)
POLICY_SWITCHES = (
    *ORDER_SWITCHES,
    Switch(
        *("mesh.rollout_devices", "> 0", lambda config: config.mesh.rollout_devices > 0),
        ("rollout.off_policy_steps",),
    ),
    Switch(
        "policy.kl_coefficient",
        "> 0",
        lambda config: config.policy.kl_coefficient != 0,  # "auto" is what the preset says
        ("policy.kl_estimator",),
    ),
)


def acceptance_mistakes(config: Config) -> Iterator[str]:
    """What no group of completions could meet to have one accepted."""
    needed, group = config.rewrite.min_right, config.rollout.group_size
    if needed > group:
        yield (
            f"rewrite.min_right = {needed}, rollout.group_size = {group}: no question has so "
            f"many completions. Set rewrite.min_right <= {group}."
        )


# The settings of a length that is rewarded, see `student.length_control`.
_TARGET = _keys("reward", "target_min target_max target_form target_weight target_eval")
_LIMIT = _keys("reward", "limit_start limit_end limit_steps limit_schedule limit_rounds")
LENGTH = ("reward.length", "reward.relative_weight", *_TARGET, *_LIMIT)


def _length(name: str, *keys: str) -> Switch:
    return Switch("reward.length", f'= "{name}"', _is("reward", "length", name), keys)


LENGTH_SWITCHES = (
    _length("bridge", *_keys("reward", "length_per_step unit monotone")),
    _length("target", *_TARGET),
    _length("group_relative", "reward.relative_weight"),
    _length("budget", *_LIMIT),
    Switch(
        "reward.limit_schedule",
        '= "rounds"',
        _is("reward", "limit_schedule", "rounds"),
        ("reward.limit_rounds",),
    ),
)


def length_mistakes(config: Config) -> Iterator[str]:
    """What is wrong with a length that is rewarded."""
    reward, most = config.reward, config.rollout.max_new_tokens
    if reward.length == "target":
        if reward.target_min > reward.target_max:
            yield (
                f"reward.target_min = {reward.target_min}: above reward.target_max = "
                f"{reward.target_max}. Set reward.target_min <= {reward.target_max}."
            )
        if reward.target_max > most:
            yield (
                f"reward.target_max = {reward.target_max}: no completion is longer than "
                f"rollout.max_new_tokens = {most}. Set reward.target_max <= {most}."
            )
    if reward.length == "budget":
        start = reward.limit_start or most
        if start > most:
            yield (
                f"reward.limit_start = {start}: no completion is longer than "
                f"rollout.max_new_tokens = {most}. Set reward.limit_start <= {most}."
            )
        if reward.limit_end >= start:
            yield (
                f"reward.limit_end = {reward.limit_end}: the limit begins at {start} and has to "
                f"fall. Set reward.limit_end < {start}, or raise reward.limit_start."
            )


# The settings of teachers and of the student's distance from them.
TEACHERS = (
    *_keys("teachers", "paths dtype"),
    *_keys("distill", "on_policy_loss divergence beta skew temperature temperature_end"),
    *_keys("distill", "temperature_schedule scale_by_temperature"),
    *_keys("curriculum", "schedule mixing teacher_weights ranking_problems"),
)
DIVERGENCE_SWITCHES = (
    Switch(
        "distill.divergence",
        '= "jensen_shannon"',
        _is("distill", "divergence", "jensen_shannon"),
        ("distill.beta",),
    ),
    Switch(
        "distill.divergence",
        '= "skew_forward_kl" or "skew_reverse_kl"',
        _is("distill", "divergence", "skew_forward_kl", "skew_reverse_kl"),
        ("distill.skew",),
    ),
    Switch(
        "distill.temperature_schedule",
        '= "linear" or "cosine"',
        _is("distill", "temperature_schedule", "linear", "cosine"),
        ("distill.temperature_end",),
    ),
)


def teacher_entries(config: Config) -> dict[str, TeacherName]:
    """The entries of `teachers.paths`, read; those that `teacher_mistakes` refuses are left out."""
    found: dict[str, TeacherName] = {}
    for name in config.teachers.paths:
        with contextlib.suppress(InputError):
            found[name] = parse_teacher(name)
    return found


def gap_mistakes(config: Config, shown: str) -> Iterator[str]:
    """What is wrong with temperatures where the gap to teachers is an advantage.

    Args:
      config: of the run.
      shown: the setting that brings such a loss, with its value.
    """
    distill, own = config.distill, config.rollout.temperature
    kind = distill.temperature_schedule
    same = kind == "constant" and distill.temperature == own
    if distill.on_policy_loss == "policy_gradient" and not same:
        yield (
            f"{shown}, distill.temperature = {distill.temperature}, distill.temperature_schedule = "
            f'"{kind}": the gap to the teachers is an advantage only at the temperature of '
            f"the samples. Set distill.temperature = {own} "
            '(rollout.temperature) and distill.temperature_schedule = "constant", or '
            'distill.on_policy_loss = "divergence".'
        )


def teacher_mistakes(config: Config) -> Iterator[str]:
    """What is wrong with the names and the weights of the teachers."""
    for name in config.teachers.paths:
        try:
            parse_teacher(name)
        except InputError as error:
            yield str(error)
    curriculum, number = config.curriculum, len(config.teachers.paths)
    weights = curriculum.teacher_weights
    if (curriculum.schedule == "fixed") != bool(weights) or (weights and len(weights) != number):
        yield (
            f"curriculum.teacher_weights = {list(weights)}, curriculum.schedule = "
            f'"{name_of(curriculum.schedule)}": "fixed" needs one weight for each of {number} '
            f'teachers, the others need none. Set {number} weights for "fixed", or leave '
            "curriculum.teacher_weights empty."
        )
    if weights and not (abs(sum(weights) - 1) <= 1e-6 and min(weights) >= 0):
        yield (
            f"curriculum.teacher_weights = {list(weights)}: they sum to {sum(weights):g}. "
            "Set weights >= 0 that sum to 1."
        )
