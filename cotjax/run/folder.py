"""The files of a run folder that mark where a run stands: config.toml, result.json."""

import contextlib
import dataclasses
import json
import pathlib
import traceback
from typing import Any

from rich.console import Console

from cotjax.config import Config, from_table, to_toml
from cotjax.config.reference import FROM_PYTHON
from cotjax.config.resuming import Change, applied, run_table
from cotjax.errors import TRACEBACK, InputError
from cotjax.storage import AGAIN, UNBEGUN, unwritten, write_whole

FIRST = ("config.toml", "facts.json", "parts.json")  # what a run writes before it does anything
LOCK, OWNER = ".lock", "owner.json"  # who writes to it
ERROR = "error.txt"
# Files of a folder in which no run has begun: its name is free.
LOOSE = {"config.toml.tmp", LOCK, OWNER, f"{OWNER}.tmp", ERROR}


def console() -> Console:
    """Where a run says what it does: the standard output, of the first process alone."""
    from cotjax.parallel.processes import is_first

    return Console(
        highlight=False,
        soft_wrap=True,
        markup=False,
        quiet=not is_first(),
        force_jupyter=False,  # plain text in a notebook too
    )


def check_folder(folder: pathlib.Path, resume: bool) -> None:
    """Refuses a folder that is taken, or one to resume that was never begun.

    Raises:
      InputError: see above; or it cannot be looked into.
    """
    try:
        begun = (folder / "config.toml").is_file()
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        taken = bool({*names} - LOOSE)
    except OSError as error:  # a file in its place, a folder of somebody else, a name too long
        raise InputError(
            f"{folder}: cannot be a run folder ({error.strerror}). "
            "Choose another --name or --output."
        ) from error
    if resume and not begun:
        raise InputError(f"--resume: {folder} is not a run. Name one that was begun, or drop it.")
    if not resume and taken:
        raise InputError(f"{folder} exists. Add --resume to continue it, or choose another --name.")


def write_config(folder: pathlib.Path, config: Config) -> None:
    """Makes the folder and writes config.toml, which repeats the run.

    Raises:
      InputError: it cannot be written.
    """
    then = UNBEGUN if not config.resume else AGAIN
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(folder, error, then) from error
    # In one piece: it marks a run as begun.
    text = to_toml(dataclasses.replace(config, resume=False))
    write_whole(folder / "config.toml", text, then=then)


def config_of(folder: pathlib.Path, like: Config) -> Config:
    """The settings that a run's folder holds.

    Args:
      folder: of the run.
      like: with which it goes on; gives the stage again if that is a class from Python.

    Raises:
      InputError: config.toml is damaged.
    """
    file = folder / "config.toml"
    table = run_table(file)
    if str(table.get("stage", "")).startswith(FROM_PYTHON):
        table["stage"] = like.stage
    return from_table(table, str(file))


def changes_of(config: Config, folder: pathlib.Path) -> dict[str, Change]:
    """What a resumed run changes, which it may, as (before, now); empty for a new one."""
    return applied(config_of(folder, config), config) if config.resume else {}


def forget_unbegun(folder: pathlib.Path) -> None:
    """Removes the folder of a run that was refused before it did anything, so its name is free."""
    files = [path for path in folder.iterdir() if path.name in FIRST]
    own = [path for path in folder.iterdir() if path.name not in LOOSE]
    if len(files) == len(own):
        for path in files:
            path.unlink()
        with contextlib.suppress(OSError):  # the lock in it is still held, and removes it
            folder.rmdir()


def write_result(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes result.json in one piece: a list takes a stage that has one for ended."""
    write_whole(folder / "result.json", json.dumps(result, indent=2) + "\n")


def keep_traceback(folder: pathlib.Path, error: Exception) -> None:
    """Writes an unexpected error's traceback to error.txt, and notes that in the error."""
    with contextlib.suppress(InputError):  # the disk is full, and the traceback is shown instead
        write_whole(folder / ERROR, "".join(traceback.format_exception(error)))
        error.add_note(f"{TRACEBACK}{folder / ERROR}.")
