"""What a run that is resumed may change: one table. Every other setting shapes its numbers.

A checkpoint holds the settings that shaped it, and their fingerprint.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from cotjax.config.reading import read_toml
from cotjax.config.reference import FROM_PYTHON, name_of, plain
from cotjax.config.stages import stage_class
from cotjax.config.switches import value_of
from cotjax.config.whole import KEYS, Config
from cotjax.errors import InputError
from cotjax.remote.place import inside, is_url

# Keys and sections that a resumed run may change, and why.
MAY_CHANGE = {
    "name": "where the run lies",
    "output": "where the run lies",
    "resume": "how it is started",
    "stages": "each stage is compared by itself",
    "steps": "when it ends; what is trained stays, and schedules go on to the new end",
    "budget.tokens": "when it ends",
    "supervised.patience": "when it ends",
    "training.max_bad_steps": "which steps end the run, not what is done about them",
    "eval.every": "which evaluations are made, not what they measure",
    "eval.at": "which evaluations are made, not what they measure",
    "checkpoint": "what is kept on the disk",
    "data.workers": "a place in the data means the same for any number of them",
    "reward.workers": "where your function is called, not what it gives",
    "reward.timeout": "which of its calls fail",
    "reward.memory": "which of its calls fail",
    "reward.max_failed": "how many of them end the run",
    "model.remat": "the same values, kept or computed again",
    "track": "who is told of the numbers",
    "track_project": "who is told of the numbers",
    "mesh": "the same sums over other devices, equal but for rounding",
}
WHERE = ("name", "output", "resume", "stages")  # of these, what is no setting of the training
ENDS = ("steps", "budget.tokens", "supervised.patience")  # and what says how long it is

Settings = dict[str, Any]
Change = tuple[Any, Any]  # a setting's value in the run, and the one that is asked for


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value of a setting."""
    return any(key == one or key.startswith(f"{one}.") for one in MAY_CHANGE)


def shaping(config: Config) -> Settings:
    """The settings that shape a run's numbers, by dotted key, as JSON holds them.

    A path inside `output` is written relative to it, so that a run may be moved with what it reads.
    """
    own = stage_class(config.stage)
    return {
        key: _inside(plain(key, value_of(config, key)), config.output)
        for key in KEYS
        if own.reads_key(key) and not may_change(key)
    }


def _inside(value: Any, output: str) -> Any:
    if is_url(output):
        if isinstance(value, str) and value != output and inside(value, output):
            return "{output}" + value[len(output.rstrip("/")) :]
        return [_inside(one, output) for one in value] if isinstance(value, list) else value
    output = os.path.normpath(output)
    if isinstance(value, str) and value.startswith((output + os.sep, f".{os.sep}{output}{os.sep}")):
        return "{output}" + os.path.normpath(value)[len(output) :]
    return [_inside(one, output) for one in value] if isinstance(value, list) else value


def fingerprint(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of `shaping` settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Change]:
    """The settings that two of `shaping` both have, and in which they differ.

    What the new ones leave to "auto" is worked out from the others, which are compared too; of an
    object from Python only its user knows whether it is the same.
    """
    return {
        key: (old[key], new[key])
        for key in new
        if key in old
        and old[key] != new[key]
        and new[key] != "auto"
        and not any(str(one).startswith(FROM_PYTHON) for one in (old[key], new[key]))
    }


def applied(old: Config, new: Config) -> dict[str, Change]:
    """The settings with another value that a resumed run may and does change."""
    own = stage_class(new.stage)
    found: dict[str, Change] = {}
    for key in KEYS:
        if may_change(key) and key not in WHERE and own.reads_key(key):
            pair = plain(key, value_of(old, key)), plain(key, value_of(new, key))
            if pair[0] != pair[1]:
                found[key] = pair
    return found


def run_table(file: pathlib.Path) -> Settings:
    """The settings of a run that was begun, from its config.toml; empty if there is none."""
    return read_toml(str(file)) if os.path.isfile(file) else {}  # no name is too long for it


def refuse_stage(begun: Mapping[str, Any], given: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Refuses to go on with a run of one stage as another one, or as a list.

    Args:
      begun: settings of the run; empty if it was not begun.
      given: settings of a file and flags.
      folder: of the run.

    Raises:
      InputError: see above.
    """
    if not begun:
        return
    old = str(begun.get("stage", Config.stage))
    if "stages" in given and "stages" not in begun:
        refuse({"stages": (f'the stage "{old}"', "a list of stages")}, folder)
    new = given.get("stage")
    if new is not None and name_of(new) != old:
        refuse({"stage": (old, name_of(new))}, folder)


def refuse_changes(
    old: Config, new: Config, folder: pathlib.Path, *, chained: bool = False
) -> None:
    """Refuses settings that a resumed run may not change.

    Args:
      old: of the run, as its config.toml has it.
      new: with which it is to go on.
      folder: of the run.
      chained: whether it is a stage of a list behind the first, which says where it begins.

    Raises:
      InputError: names the first of them, what it was, and the way to go on differently.
    """
    stages = name_of(old.stage), name_of(new.stage)
    if stages[0] != stages[1]:
        refuse({"stage": stages}, folder)
    found = differences(shaping(old), shaping(new))
    if chained:
        found.pop("model.path", None)
    refuse(found, folder)


def refuse(found: Mapping[str, Change], folder: pathlib.Path, *, why: str = "") -> None:
    """Refuses settings if there are any.

    Args:
      found: by key, (the run's value, the one that is asked for).
      folder: of the run.
      why: they cannot change; by default that they shape the numbers.

    Raises:
      InputError: see above.
    """
    if not found:
        return
    (key, (old, new)), *others = found.items()
    more = f" So do {', '.join(name for name, _ in others)}." if others else ""
    why = why or "shapes its numbers, so a run that is resumed keeps it"
    trained = any(one.name.isdigit() for one in folder.glob("checkpoints/*"))
    begin = f"--name NEW --model.path {folder}" if trained else "--name NEW"
    raise InputError(
        f"--resume: {key} = {_shown(new)}: {folder} has {_shown(old)}, and {key} {why}.{more} "
        f"Leave it out to go on as it was, or begin another run from this one: {begin}."
    )


def _shown(value: Any) -> str:
    return json.dumps(value, default=name_of, ensure_ascii=False)
