"""What is checked of a whole config: every range, and settings that must agree."""

import dataclasses
import os
import re
import typing
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotjax.config.ranges import ROW_KEYS, SOURCES, Range
from cotjax.config.reference import is_reference, name_of
from cotjax.config.rollout_axes import parse_axes
from cotjax.config.sections import DataConfig
from cotjax.config.stages import stage_class
from cotjax.config.teaching import RationalesConfig
from cotjax.config.whole import Config, every_setting
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
            if isinstance(limit, Range) and value != "auto":
                _check_range(key, limit, value)
    for message in _disagreements(config):
        raise InputError(message)


def _check_range(key: str, limit: Range, value: Any) -> None:
    for one in value if isinstance(value, tuple) else (value,):
        if not limit.holds(one):
            why = limit.why if one == one else "not a number"
            raise InputError(f"{key} = {one}: {why}. Set {limit.form.format(key)}.")


def _disagreements(config: Config) -> Iterator[str]:
    data, prompts, micro = config.data, config.rollout.prompts, config.policy.micro_batch
    if Path(config.name).name != config.name or config.name == "..":
        yield (
            f'name = "{config.name}": a run is one folder inside output = "{config.output}". '
            "Set name to a folder's name and output to where it lies."
        )
    if config.resume and not config.name:
        yield 'resume = true, name = "": which run? Set name to the folder of the run to continue.'
    yield from _term_disagreements(config)
    yield from _verifier_disagreements(config)
    if data.max_steps < data.min_steps:
        yield (
            f"data.max_steps = {data.max_steps}: below data.min_steps = {data.min_steps}. "
            f"Set data.max_steps >= {data.min_steps}."
        )
    yield from _source_disagreements(data)
    yield from _server_disagreements(config.rationales)
    yield from stage_class(config.stage).check(config)
    parse_axes(config.mesh.rollout)
    mesh = dataclasses.asdict(config.mesh)
    if len(open_axes := [axis for axis, size in mesh.items() if size == -1]) > 1:
        yield (
            f"mesh.{' = mesh.'.join(open_axes)} = -1: only one axis can take the devices that are "
            f"left. Set mesh.{open_axes[0]} >= 1."
        )
    if config.rollout.off_policy_steps and not config.policy.sampler_correction:
        yield (
            "rollout.off_policy_steps = 1: completions then come from older parameters, and "
            "policy.sampler_correction = 0 does not weigh them. Set policy.sampler_correction = 2."
        )
    weighs = stage_class(config.stage).reads_key("policy.sampler_correction")
    if config.rollout.weights_dtype == "int8" and weighs and not config.policy.sampler_correction:
        yield (
            'rollout.weights_dtype = "int8": completions then come from rounded parameters, and '
            "policy.sampler_correction = 0 does not weigh them. Set policy.sampler_correction = 2."
        )
    own, literal = config.rollout.temperature, config.policy.objective == "bridge_release"
    if weighs and literal and config.policy.sampler_correction and own != 1:
        yield (
            f"policy.sampler_correction = {config.policy.sampler_correction}, policy.objective = "
            f'"bridge_release", rollout.temperature = {own}: that objective takes '
            "log-probabilities at temperature 1, with which the sampler's cannot be compared. Set "
            "rollout.temperature = 1, or policy.sampler_correction = 0."
        )
    group, share = config.rollout.group_size, config.rollout.completions_per_slot
    if share and group % share:
        yield (
            f"rollout.completions_per_slot = {share}: does not divide rollout.group_size = {group}."
            f" Set rollout.completions_per_slot to a divisor of {group}, or to 0."
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


def _term_disagreements(config: Config) -> Iterator[str]:
    policy = config.policy
    if not is_reference(policy.term):
        if policy.term_settings:
            yield (
                f"policy.term_settings = {policy.term_settings}: they are the keywords of your own "
                'policy.term, which is "auto". Name one, or leave policy.term_settings out.'
            )
        return
    if policy.objective == "bridge_release":
        yield (
            f'policy.term = "{name_of(policy.term)}", policy.objective = "bridge_release": that '
            "objective's KL lies in the term that yours replaces. Choose another objective."
        )


def _verifier_disagreements(config: Config) -> Iterator[str]:
    reward = config.reward
    if config.data.layout == "choice" and reward.verifier in ("numeric", "math"):
        yield (
            f'data.layout = "choice", reward.verifier = "{reward.verifier}": the answers are '
            'letters. Set reward.verifier = "choice".'
        )


def _server_disagreements(rationales: RationalesConfig) -> Iterator[str]:
    """What a message says of an address or a key never holds a password or the key."""
    variable = rationales.key_variable
    named = re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII)
    if not named or (variable not in os.environ and variable != variable.upper()):
        yield (
            "rationales.key_variable is not the name of an environment variable. Set the variable "
            "TEACHER_API_KEY, or another in capitals, to the key, and rationales.key_variable to "
            "its name: a key itself would be written into files."
        )
    if not rationales.url:
        return
    try:
        parts = urllib.parse.urlsplit(rationales.url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urllib.parse.urlsplit("")
    if "@" in rationales.url:
        yield (
            "rationales.url holds a name or a password, which would be written into files. Leave "
            'out what stands before "@", and set the environment variable that '
            "rationales.key_variable names to the key."
        )
    elif parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        address = f"{parts.scheme}://{host}{parts.path}" if host else ""
        yield (
            f'rationales.url = "{address}": needs http:// or https://, a host and a path, and '
            'nothing behind "?" or "#". Set rationales.url to an address such as '
            "http://localhost:8000/v1."
        )


def _source_disagreements(data: DataConfig) -> Iterator[str]:
    unknown = [key for key in data.columns if key not in ROW_KEYS]
    if unknown:
        yield (
            f'data.columns = {{ {unknown[0]} = "{data.columns[unknown[0]]}" }}: no layout has a '
            f'"{unknown[0]}". Set data.columns to {{ key = "column of the file" }} with keys among '
            f"{', '.join(ROW_KEYS)}."
        )
    files, own = [one for one in SOURCES if one != "problems"], is_reference(data.source)
    if data.columns and not data.mixture and (own or data.source == "problems"):
        yield (
            f'data.columns, data.source = "{name_of(data.source)}": only the rows of a file have '
            f"columns. Set data.source to one of {', '.join(files)}, or leave data.columns out."
        )
    if data.mixture:
        if data.path:
            yield (
                f'data.path = "{data.path}": data.mixture names its own paths. Leave data.path or '
                "data.mixture empty."
            )
        if own:
            yield (
                f'data.source = "{name_of(data.source)}", data.mixture = "{data.mixture}": a '
                "mixture is of built-in sources and files. Leave data.source or data.mixture out."
            )
        return
    if own:  # which may read data.path itself
        return
    if data.source == "problems" and (data.path or data.eval_path):
        yield (
            f'data.path = "{data.path}", data.eval_path = "{data.eval_path}": data.source = '
            '"problems" reads no file. Set data.source = "jsonl", or leave both empty.'
        )
    if data.source != "problems" and not data.path:
        names = {
            "tfds": "the folder of its version",
            "hub": 'a name on the Hugging Face Hub, such as "openai/gsm8k"',
            "reasoning_gym": "a data set's name",
        }
        name = names.get(data.source, f"a .{data.source} file")
        yield f'data.path = "": data.source = "{data.source}" needs it. Set data.path to {name}.'
