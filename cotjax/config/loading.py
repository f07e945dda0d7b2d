"""One checked config from a stage's defaults, a file and flags."""

import dataclasses
import datetime
import sys
from collections.abc import Sequence
from typing import Any

import tomli_w

from cotjax.config.checks import validate
from cotjax.config.flags import read_flags
from cotjax.config.plugins import check_plugins
from cotjax.config.ranges import LIST
from cotjax.config.reading import keys_of, merge, overlay, read_toml
from cotjax.config.reference import ARGUMENTS, name_of, plain
from cotjax.config.resuming import refuse_stage, run_table
from cotjax.config.stages import (
    check_reads,
    defaults_of,
    from_its_path,
    idle_settings,
    stage_class,
    stage_configs,
    with_entries,
)  # fmt: skip
from cotjax.config.switches import refuse_idle, reset, without
from cotjax.config.whole import KEYS, Config
from cotjax.errors import InputError
from cotjax.remote.fetch import begun_copy
from cotjax.remote.place import joined

# What belongs to a list of stages itself and not to each of them.
OWN = ("stage", "name", "output", "resume", "stages")
FLAGS = "the command line"


def load(argv: Sequence[str] | None = None, *, tool: str = "") -> Config:
    """Resolves the stage's defaults, a TOML file and the flags into one checked config.

        stage's defaults  <  --config FILE  <  flags

    A run that is resumed begins with the settings in its own folder; what a file and flags say
    comes over them, and `cotjax.run` refuses what may not change.

    Args:
      argv: flags such as `["--stage=grpo", "--rollout.group-size", "8"]`, see `read_flags`;
        None reads the process's own. `--config FILE` names the TOML file.
      tool: a section that the caller reads beside the stage's.

    Returns:
      The config, with a name: `<stage>-<time>` if none was given.

    Raises:
      InputError: the file cannot be read, an unknown key or a wrong type, a value out of range, or
        a setting that the stage does not read.
    """
    config, table, flags, path = _read(sys.argv[1:] if argv is None else argv)
    return _finish(config, table, flags, FLAGS, path, tool=tool)


def unchecked(argv: Sequence[str]) -> Config:
    """The same settings without a check of what must be there, as `--help` shows them.

    Raises:
      InputError: the file cannot be read, an unknown key or a wrong type.
    """
    config, table, flags, _ = _read(argv)
    return _spread(config, table, flags)


def _read(argv: Sequence[str]) -> tuple[Config, dict[str, Any], dict[str, Any], str]:
    """(the config of a file and flags, the file's table, the flags' table, the file's path)."""
    path, flags = read_flags(argv)
    table = read_toml(path) if path else {}
    stage = flags.get("stage")
    if flags.get("resume"):
        given = overlay(table, flags)
        place = joined(given.get("output", Config.output), given.get("name", ""))
        own = begun_copy(place) / "config.toml"
        begun = run_table(own)
        refuse_stage(begun, given, own.parent)
        if begun:
            table, path = overlay(begun, table), path or str(own)
    base = _start(table, stage, path)
    return merge(base, flags, FLAGS), table, flags, path


def from_table(table: dict[str, Any], where: str, *, tool: str = "") -> Config:
    """The checked config of a nested table, as a file has it.

    Args:
      table: may hold objects for keys that take references.
      where: it came from, for errors.
      tool: see `load`.

    Raises:
      InputError: see `load`.
    """
    config = _finish(_start(table, None, where), table, {}, "", where, tool=tool)
    check_plugins(config, given=False)
    return config


def change(config: Config, table: dict[str, Any], where: str) -> Config:
    """A config with a nested table over it, checked again; in a list, over every stage.

    Args:
      config: stays as it is.
      table: as a file has it; may hold objects for keys that take references.
      where: it came from, for errors.

    Raises:
      InputError: see `load`.
    """
    return _finish(merge(config, table, where), {}, table, where, "", tool="")


def with_objects(config: Config, **objects: Any) -> Config:
    """The config with a user's objects in their places, in every stage that reads them.

    Args:
      config: of a stage, or of a list of stages.
      **objects: by their names in `ARGUMENTS`: reward, verifier, term, source, difficulty,
        schedule. An object, or its name as a config has it; None leaves a key as it is.

    Raises:
      InputError: no such name, an object that its key does not take, or that no stage reads.
    """
    where = "cotjax.train"
    table: dict[str, Any] = {}
    for name, value in objects.items():
        if name not in ARGUMENTS:
            raise InputError(
                f"{where}: {name}: there is no such argument. It takes {', '.join(ARGUMENTS)}."
            )
        if value is not None:
            section, _, last = ARGUMENTS[name].partition(".")
            table.setdefault(section, {})[last] = value
    if not table:
        return config
    config = change(config, table, where)
    check_plugins(config)
    return config


def _start(table: dict[str, Any], stage: Any, path: str) -> Config:
    """The stage's defaults with a table over them."""
    if stage is None or stage == "":
        stage = table.get("stage", LIST if "stages" in table else Config.stage)
    base = defaults_of(stage)
    if "stages" in table and stage != LIST and not base.stages:
        raise InputError(
            f'stage = "{name_of(stage)}": {path} lists its own [[stages]]. Leave stage out, or the '
            "list."
        )
    return dataclasses.replace(merge(base, table, path), stage=stage)


def _finish(
    config: Config,
    table: dict[str, Any],
    above: dict[str, Any],
    where_above: str,
    where: str,
    *,
    tool: str,
) -> Config:
    """Checks everything that is known only when all of it is there: a table, and what came above.

    Args:
      config: with both in it.
      table: of a file, or of a call.
      above: what was set over the table.
      where_above: that came from.
      where: the table came from.
      tool: see `load`.
    """
    given = [key for key in keys_of(table) if key.split(".")[0] not in (tool, *OWN)]
    flags = [key for key in keys_of(above) if key.split(".")[0] not in (tool, *OWN)]
    if "stages" in table or config.stages or config.stage == LIST:
        entries = config.stages
        config = _spread(config, table, above)
        stages = [own.stage for _, own in stage_configs(config)]
        for entry in config.stages:
            own = [key for key in keys_of(entry) if key not in ("stage", "name")]
            check_reads(own, [entry["stage"]], f"[[stages]] {entry.get('name', entry['stage'])}")
        config = _settle_entries(config, entries, (given, where), (flags, where_above))
    else:
        stages, config = [config.stage], from_its_path(config, table, above)
    check_reads(given, stages, where)
    check_reads(flags, stages, where_above)
    validate(config)
    if not config.stages:
        config = _settle(config, (given, where), (flags, where_above))
    else:
        for name, own in stage_configs(config):
            try:
                validate(own)
            except InputError as error:
                raise InputError(f"[[stages]] {name}: {error}") from error
    if config.name:
        return config
    time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    stage = config.stage if isinstance(config.stage, str) else stage_class(config.stage).name
    return dataclasses.replace(config, name=f"{stage.rpartition(':')[2]}-{time}")


# Dotted keys, and where they were given.
Given = tuple[Sequence[str], str]


def _settle(config: Config, given: Given, flags: Given) -> Config:
    """Refuses settings that do nothing; those that a flag switched off are as by default.

    Args:
      config: of one stage.
      given: what its file sets.
      flags: what was set over that.
    """
    found = idle_settings(config)
    refuse_idle(found, flags[0], (), config, flags[1])
    refuse_idle(found, given[0], flags[0], config, given[1])
    return reset(config, found, defaults_of(config.stage))


def _settle_entries(
    config: Config, before: Sequence[dict[str, Any]], given: Given, flags: Given
) -> Config:
    """The same for a list of stages.

    What is set for all may do nothing in some of them, and is left out of these.

    Args:
      config: of the list, with what is set for all in each entry.
      before: the entries as they were written.
      given: what the file sets for all.
      flags: what was set over that.
    """
    idle, used, entries = {}, set[str](), []
    for (name, own), entry, written in zip(
        stage_configs(config), config.stages, before, strict=True
    ):
        found = idle_settings(own)
        refuse_idle(found, keys_of(written), flags[0], own, f"[[stages]] {name}")
        used.update(key for key in keys_of(entry) if key not in found)
        idle |= {key: (switch, own) for key, switch in found.items()}
        entries.append(without(entry, found))
    for keys, where, later in ((*flags, ()), (*given, flags[0])):
        for key in keys:
            if key in idle and key not in used:
                switch, own = idle[key]
                refuse_idle({key: switch}, [key], later, own, where)
    return dataclasses.replace(config, stages=tuple(entries))


def _spread(config: Config, table: dict[str, Any], above: dict[str, Any]) -> Config:
    """A list of stages with the settings for all of them in each entry; see `with_entries`."""
    if not config.stages:
        return config
    shared = {key: value for key, value in table.items() if key not in OWN}
    shared = overlay(stage_class(config.stage).defaults, shared)
    over = {key: value for key, value in above.items() if key not in OWN}
    return dataclasses.replace(config, stages=with_entries(config.stages, shared, over))


def to_toml(config: Config) -> str:
    """Writes every setting that the run's stages read; `load` gives the same config back."""
    if config.stages:
        return tomli_w.dumps({name: plain(name, getattr(config, name)) for name in (*OWN, "seed")})
    own = stage_class(config.stage)
    kept = _picked(config, [key for key in KEYS if own.reads_key(key) and key != "stages"])
    return tomli_w.dumps(plain("", kept))


def _picked(config: Config, keys: Sequence[str]) -> dict[str, Any]:
    """Some settings of a config as a nested table."""
    table: dict[str, Any] = {}
    for key in keys:
        *sections, name = key.split(".")
        here: dict[str, Any] = table
        there: Any = config
        for section in sections:
            here, there = here.setdefault(section, {}), getattr(there, section)
        here[name] = getattr(there, name)
    return table
