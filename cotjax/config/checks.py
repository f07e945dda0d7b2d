"""What is checked of a whole config: every range, and settings that must agree."""

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path

from cotjax.config.sections import Config, DataConfig, Range, every_setting
from cotjax.errors import InputError


def validate(config: Config) -> None:
    """Checks every range, and the settings that must agree with each other.

    Raises:
      InputError: names the key, its value, what is needed and what to set.
    """
    for key, hint, value in every_setting(config):
        limits = (
            limit
            for part in (hint, *typing.get_args(hint))
            for limit in getattr(part, "__metadata__", ())
        )
        for limit in limits:
            if isinstance(limit, Range) and value != "auto" and not limit.holds(value):
                raise InputError(f"{key} = {value}: {limit.why}. Set {limit.form.format(key)}.")
    for message in _disagreements(config):
        raise InputError(message)


def _disagreements(config: Config) -> Iterator[str]:
    data, prompts, micro = config.data, config.rollout.prompts, config.policy.micro_batch
    if Path(config.name).name != config.name or config.name == "..":
        yield (
            f'name = "{config.name}": a run is one folder inside output = "{config.output}". '
            "Set name to a folder's name and output to where it lies."
        )
    if config.resume and not config.name:
        yield 'resume = true, name = "": which run? Set name to the folder of the run to continue.'
    if data.max_steps < data.min_steps:
        yield (
            f"data.max_steps = {data.max_steps}: below data.min_steps = {data.min_steps}. "
            f"Set data.max_steps >= {data.min_steps}."
        )
    yield from _source_disagreements(data)
    yield from _teaching(config)
    mesh = dataclasses.asdict(config.mesh)
    if len(open_axes := [axis for axis, size in mesh.items() if size == -1]) > 1:
        yield (
            f"mesh.{' = mesh.'.join(open_axes)} = -1: only one axis can take the devices that are "
            f"left. Set mesh.{open_axes[0]} >= 1."
        )
    group, share = config.rollout.group_size, config.rollout.share
    if share and group % share:
        yield (
            f"rollout.share = {share}: does not divide rollout.group_size = {group}. "
            f"Set rollout.share to a divisor of {group}, or to 0."
        )
    if config.policy.dual_clip != "auto" and 0 < config.policy.dual_clip <= 1:
        yield (
            f"policy.dual_clip = {config.policy.dual_clip}: a bound at or below 1 would stop all "
            "learning from bad tokens. Set policy.dual_clip > 1, or 0 to switch it off."
        )
    if micro and prompts % micro:
        yield (
            f"policy.micro_batch = {micro}: does not divide rollout.prompts = {prompts}. "
            f"Set policy.micro_batch to a divisor of {prompts}, or to 0."
        )


def _source_disagreements(data: DataConfig) -> Iterator[str]:
    if data.mixture:
        if data.path:
            yield (
                f'data.path = "{data.path}": data.mixture names its own paths. Leave data.path or '
                "data.mixture empty."
            )
        return
    if data.source == "problems" and (data.path or data.eval_path):
        yield (
            f'data.path = "{data.path}", data.eval_path = "{data.eval_path}": data.source = '
            '"problems" reads no file. Set data.source = "jsonl", or leave both empty.'
        )
    if data.source != "problems" and not data.path:
        names = {"tfds": "the folder of its version", "reasoning_gym": "a data set's name"}
        name = names.get(data.source, f"a .{data.source} file")
        yield f'data.path = "": data.source = "{data.source}" needs it. Set data.path to {name}.'


def _teaching(config: Config) -> Iterator[str]:
    """What is wrong with the teachers, if any teach."""
    if config.distill.coefficient:
        yield from _coaching(config)
    if config.stage == "distill" or config.distill.coefficient:
        yield from _weighing(config)
    if config.stage == "distill":
        yield from _distilling(config)


def _weighing(config: Config) -> Iterator[str]:
    curriculum, number = config.curriculum, len(config.distill.teachers)
    weights = curriculum.weights
    if (curriculum.schedule == "fixed") != bool(weights) or (weights and len(weights) != number):
        yield (
            f"curriculum.weights = {list(weights)}, curriculum.schedule = "
            f'"{curriculum.schedule}": "fixed" needs one weight for each of {number} teachers, the '
            f"others need none. Set {number} weights for "
            '"fixed", or leave curriculum.weights empty.'
        )
    if weights and not (abs(sum(weights) - 1) <= 1e-6 and min(weights) >= 0):
        yield (
            f"curriculum.weights = {list(weights)}: they sum to {sum(weights):g}. "
            "Set weights >= 0 that sum to 1."
        )


def _coaching(config: Config) -> Iterator[str]:
    """What is wrong with teachers beside a policy loss."""
    distill, rollout = config.distill, config.rollout
    shown = f"distill.coefficient = {distill.coefficient}"
    if config.stage != "grpo":
        yield (
            f'{shown}: stage = "{config.stage}" adds no teachers to a policy loss. Set '
            'stage = "grpo", or distill.coefficient under [bridge.grpo.distill], or to 0.'
        )
    if distill.store:
        yield (
            f'{shown}, distill.store = "{distill.store}": a store holds what teachers say about '
            "the data's texts, and the student writes others. Set distill.store empty."
        )
    if config.curriculum.schedule == "adaptive":
        yield (
            f'{shown}, curriculum.schedule = "adaptive": it follows a held-out loss that only '
            '--stage=distill measures. Set curriculum.schedule to "step", "linear", "cosine" or '
            '"fixed".'
        )
    constant = distill.temperature_schedule == "constant"
    tempered = distill.temperature, distill.temperature_schedule
    if distill.on_policy_loss == "policy_gradient" and not (
        constant and distill.temperature == rollout.temperature
    ):
        yield (
            f'distill.temperature = {tempered[0]}, distill.temperature_schedule = "{tempered[1]}": '
            "the gap to the teachers is an advantage only at the temperature of the samples. Set "
            f"distill.temperature = {rollout.temperature} (rollout.temperature) and "
            'distill.temperature_schedule = "constant", or distill.on_policy_loss = "divergence".'
        )


def _distilling(config: Config) -> Iterator[str]:
    distill, curriculum = config.distill, config.curriculum
    if config.data.mixture:
        yield (
            f"data.mixture = {config.data.mixture}: a curriculum puts the records of one source in "
            "order. Set data.source and data.path, and leave data.mixture empty."
        )
    if distill.store and distill.temperature_schedule != "constant":
        yield (
            f'distill.temperature_schedule = "{distill.temperature_schedule}": a store has one '
            'temperature. Set distill.temperature_schedule = "constant", or distill.store empty.'
        )
    if distill.store and curriculum.rescore:
        yield (
            "curriculum.rescore = true: which teacher is asked about which example would only be "
            "known while training. Set curriculum.rescore = false, or distill.store empty."
        )
    if curriculum.examples and curriculum.buckets > curriculum.examples:
        yield (
            f"curriculum.buckets = {curriculum.buckets}: more stages than examples "
            f"(curriculum.examples = {curriculum.examples}). Set fewer buckets or more examples."
        )
    if distill.target == "text" and (distill.store or distill.on_policy):
        yield (
            f'distill.target = "text", distill.store = "{distill.store}", distill.on_policy = '
            f"{distill.on_policy}: texts of teachers are learned as they stand. Set distill.store "
            'empty and distill.on_policy = 0, or distill.target = "distribution".'
        )
    files = [name for name in distill.teachers if name.endswith(".jsonl")]
    if files and distill.target != "text":
        yield (
            f'distill.teachers: "{files[0]}" holds texts, which have no distribution. Set '
            'distill.target = "text", or name the model that wrote it.'
        )
    if distill.store and distill.on_policy:
        yield (
            f'distill.store = "{distill.store}": a store holds what teachers say about the data\'s '
            "texts, and the student writes others. Empty distill.store, or distill.on_policy = 0."
        )
    if distill.store and distill.divergence != "forward_kl":
        yield (
            f'distill.divergence = "{distill.divergence}": a store of top logits gives the forward '
            'KL. Set distill.divergence = "forward_kl", or distill.store empty.'
        )
