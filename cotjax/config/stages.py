"""Stages by name: their defaults, the settings that they read, and lists of them."""

import dataclasses
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cotjax.config.ranges import LIST, STAGES
from cotjax.config.reading import merge, nearest, overlay
from cotjax.config.reference import check_call, is_reference, name_of, resolve
from cotjax.config.sections import ModelConfig
from cotjax.config.switches import COMMON, Switch, idle
from cotjax.config.whole import KEYS, Config
from cotjax.errors import InputError, shown

TAKES = "a class with from_config(config, mesh), see cotjax.interfaces.Stage"
PIPELINE = ("data.workers", "data.prompt_widths")  # of stages with a Grain pipeline
# Every stage loads a student, evaluates it, and saves what it trains.
EVERYWHERE = (
    *("stage", "name", "seed", "steps", "output", "resume", "stages", "track", "track_project"),
    *(key for key in KEYS if key.startswith("data.") and key not in PIPELINE),
    *("deliberate", "model", "lora", "optimizer", "training", "eval", "budget"),
    *("checkpoint", "mesh"),
    *("reward.function", "reward.verifier", "reward.tolerance"),
    *("reward.workers", "reward.timeout", "reward.memory", "reward.max_failed"),
    *("reward.length_per_step", "reward.unit", "reward.monotone"),
    *("rollout.max_prompt_tokens", "rollout.stop", "rollout.cache_dtype"),
)


@dataclasses.dataclass(frozen=True)
class StageClass:
    """What a stage's class declares; all but `from_config` is optional in a user's.

    Attributes:
      name: as shown to the user.
      from_config: (config, mesh) to the stage.
      defaults: what it sets otherwise than `Config`, nested as in a file.
      reads: sections and keys that it reads beside `EVERYWHERE`.
      facts: (label, form) of its settings, for the report.
      aim: a config to the words for what is learned from what; empty if it has none.
      check: a config to sentences about what is wrong with it.
      switches: settings that it reads only where another one switches them on.
      entries: of a list of stages; empty for a stage that trains.
    """

    name: str
    from_config: Callable[[Config, Any], Any]
    defaults: dict[str, Any]
    reads: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    check: Callable[[Config], Iterator[str]]
    aim: Callable[[Config], str]
    switches: tuple[Switch, ...] = ()
    entries: tuple[dict[str, Any], ...] = ()

    def reads_key(self, key: str) -> bool:
        """Whether the stage reads a setting."""
        return any(key == one or key.startswith(f"{one}.") for one in (*EVERYWHERE, *self.reads))


def _no_stage(config: Config, mesh: Any) -> Any:
    raise InputError(
        f'stage = "{LIST}": lists nothing. Give [[stages]] an entry, or set stage to one of '
        f"{', '.join(STAGES)}."
    )


# What stands for the stage of a config whose file lists its own: it sets nothing for them.
_LIST = StageClass(LIST, _no_stage, {}, KEYS, (), lambda config: iter(()), lambda config: "")


def stage_class(stage: Any, key: str = "stage") -> StageClass:
    """The class of a stage, by its built-in name, a reference, or the class itself.

    Raises:
      InputError: there is no such class, or it has no `from_config`.
    """
    if isinstance(stage, str) and stage == LIST:
        return _LIST
    if isinstance(stage, str) and stage in STAGES:
        stage = f"cotjax.stages.{stage}:{stage.capitalize()}"
    if not is_reference(stage):
        stage = str(stage)[:80]  # a file may hold anything there
        raise InputError(
            f'{key} = "{stage}": unknown. Did you mean "{nearest(stage, STAGES)}"? There are '
            f"{', '.join(STAGES)}, and your own class: package.module:Name or ./file.py:Name."
        )
    found = resolve(key, stage, takes=TAKES)
    entries = tuple(getattr(found, "entries", ()))
    if not (entries or callable(getattr(found, "from_config", None))):
        raise InputError(
            f'{key} = "{name_of(stage)}": {type(found).__name__} without from_config. {key} takes '
            f"{TAKES}."
        )
    if not entries:
        check_call(key, stage, found.from_config, takes=TAKES, names=2)
    return StageClass(
        name=getattr(found, "__name__", str(found)),
        from_config=getattr(found, "from_config", None),  # pyright: ignore[reportArgumentType]
        defaults=getattr(found, "defaults", {}),
        reads=tuple(getattr(found, "reads", KEYS)),
        facts=tuple(getattr(found, "facts", ())),
        check=getattr(found, "check", lambda config: iter(())),
        aim=getattr(found, "aim", lambda config: ""),
        switches=tuple(getattr(found, "switches", ())),
        entries=entries,
    )


class _FactWords(string.Formatter):
    """As `str.format`, but a list is its items."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        if re.search(r"\d{3}", format_spec):  # of a damaged facts.json
            raise ValueError(f"{format_spec}: too wide")
        try:
            return super().format_field(value, format_spec)
        except OverflowError as error:  # a whole number of hundreds of digits, written as a decimal
            raise ValueError(f"{format_spec}: too large a number") from error


def fact_words(form: str, settings: Mapping[str, Any]) -> str:
    """A fact of a stage, filled with settings as config.toml nests them.

    Raises:
      LookupError, ValueError, TypeError, AttributeError: the form and the settings do not fit.
    """
    return _FactWords().vformat(form, (), settings)


def defaults_of(stage: Any, key: str = "stage") -> Config:
    """The config of a stage at its defaults.

    Raises:
      InputError: see `stage_class`; or its defaults name a key that does not exist.
    """
    own = stage_class(stage, key)
    base = merge(Config(stage=stage), own.defaults, f"{own.name}.defaults")
    return dataclasses.replace(base, stages=own.entries)


def idle_settings(config: Config) -> dict[str, Switch]:
    """The settings of one stage's config that do nothing, see `switches.idle`."""
    own = stage_class(config.stage)
    return idle(config, defaults_of(config.stage), (*COMMON, *own.switches))


def check_reads(given: Sequence[str], stages: Sequence[Any], where: str) -> None:
    """Refuses settings that no stage of a run reads.

    Args:
      given: dotted keys of a file or of flags.
      stages: of the run.
      where: the file, or what else gave them.

    Raises:
      InputError: names the first one and the stages that read it.
    """
    classes = [stage_class(stage) for stage in stages]
    for key in given:
        if any(one.reads_key(key) for one in classes):
            continue
        readers = [name for name in STAGES if _trains(name) and stage_class(name).reads_key(key)]
        others = [tool for tool, sections in READERS.items() if key.split(".")[0] in sections]
        who = [f"--stage={name}" for name in readers] + others
        names = " and ".join(name_of(stage) for stage in stages)
        raise InputError(
            f"{where}: {key}: stage {names} does not read it; "
            f"{' and '.join(who) or 'none'} {'do' if len(who) > 1 else 'does'}. Leave it out, or "
            "choose another stage."
        )


READERS = {"cotjax rationales": ("rationales",)}


def _trains(name: str) -> bool:
    return not stage_class(name).entries


OF_THE_LIST = ("output", "resume", "stages")


def stage_configs(config: Config) -> list[tuple[str, Config]]:
    """The name and the config of each stage of a list, in order.

    Settings of the whole list come over the stage's defaults, an entry's own over these.

    Raises:
      InputError: an entry without a stage, two of one name, or a wrong setting; names the entry.
    """
    if not config.stages:
        raise InputError("stages = []: an empty list trains nothing. Give [[stages]] an entry.")
    found: list[tuple[str, Config]] = []
    for number, entry in enumerate(config.stages, 1):
        where = f"[[stages]] {number}"
        if "stage" not in entry:
            raise InputError(
                f"{where}: names no stage. Set stage to one of {', '.join(STAGES)}, or your own."
            )
        stage = entry["stage"]
        own = stage_class(stage, f"{where}: stage")
        if own.entries or stage == LIST:
            raise InputError(
                f'{where}: stage = "{name_of(stage)}" is a list itself. Write its stages out.'
            )
        model = entry.get("model", {})
        if not isinstance(model, dict):
            raise InputError(f"{where}: model: needs a section [stages.model].")
        if found and "path" in model:
            raise InputError(
                f'{where}: model.path = "{model["path"]}": a stage of a list begins from '
                "the one before, with its tokenizer. Leave model.path out."
            )
        if found and "init" in model:
            raise InputError(
                f"{where}: model.init: a stage of a list begins from the weights of the one "
                "before. Leave model.init out."
            )
        if whole := [key for key in OF_THE_LIST if key in entry]:
            raise InputError(
                f"{where}: {whole[0]}: is the whole list's. Set it above the first [[stages]]."
            )
        name = entry.get("name", own.name.lower() if stage in STAGES else own.name)
        if not isinstance(name, str):
            raise InputError(f"{where}: name = {shown(name)}: needs a string.")
        if name in [one for one, _ in found]:
            raise InputError(
                f'{where}: name = "{name}" is that of a stage before. Give this one another name.'
            )
        merged = merge(Config(stage=stage), own.defaults, f"{own.name}.defaults")
        merged = merge(merged, {k: v for k, v in entry.items() if k != "name"}, where)
        merged = from_its_path(merged, entry)
        found.append((name, dataclasses.replace(merged, name=name, stages=())))
    return found


def from_its_path(config: Config, *tables: dict[str, Any]) -> Config:
    """The config with the weights of a `model.path` that was given.

    A stage whose default is random weights means the built-in student, which it trains from
    nothing; another model's weights are random only where `model.init` says so.

    Args:
      config: the stage's defaults with the tables over them.
      *tables: what was given.
    """
    given = {key for table in tables for key in table.get("model", {})}
    if "path" not in given or "init" in given or config.model.path == ModelConfig.path:
        return config
    model = dataclasses.replace(config.model, init="pretrained")
    return dataclasses.replace(config, model=model)


def with_entries(
    entries: Sequence[dict[str, Any]], below: dict[str, Any], above: dict[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Entries of a list with what holds for all: a file's own keys below them, flags above.

    Keys that the stage of an entry does not read are left out of it.
    """
    whole = []
    for number, entry in enumerate(entries, 1):
        key = f"[[stages]] {number}: stage"
        own = stage_class(entry["stage"], key) if "stage" in entry else None
        shared, flags = (table if own is None else read_by(own, table) for table in (below, above))
        whole.append(overlay(overlay(shared, entry), flags))
        below, above = _without_model(below), _without_model(above)
    return tuple(whole)


def _without_model(table: dict[str, Any]) -> dict[str, Any]:
    """What later stages take of the settings for all: they begin from the one before."""
    model = {name: one for name, one in table.get("model", {}).items() if name not in _FIRST}
    return {**table, "model": model} if "model" in table else table


_FIRST = ("path", "init", "adapter")  # of [model]: what the first stage begins from


def read_by(own: StageClass, table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings of a nested table that a stage reads."""
    kept: dict[str, Any] = {}
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, dict) and key not in KEYS:
            if inner := read_by(own, value, f"{key}."):
                kept[name] = inner
        elif own.reads_key(key):
            kept[name] = value
    return kept
