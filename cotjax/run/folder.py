"""The files of a run folder that mark where a run stands: config.toml, result.json."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from rich.console import Console

from cotjax.config import Config, to_toml
from cotjax.errors import InputError

FIRST = ("config.toml", "facts.json", "parts.json")  # what a run writes before it does anything


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
        taken = bool({*names} - {"config.toml.tmp"})
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = to_toml(dataclasses.replace(config, resume=False))
        temporary = folder / "config.toml.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / "config.toml")  # in one piece: it marks a run as begun
    except OSError as error:
        raise InputError(
            f'output = "{config.output}": cannot write {folder} ({error.strerror}). '
            "Set --output to a folder that you may write to."
        ) from error


def forget_unbegun(folder: pathlib.Path) -> None:
    """Removes the folder of a run that was refused before it did anything, so its name is free."""
    files = [path for path in folder.iterdir() if path.name in FIRST]
    if len(files) == len(list(folder.iterdir())):
        for path in files:
            path.unlink()
        folder.rmdir()


def write_result(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """Writes result.json in one piece: a list takes a stage that has one for ended."""
    temporary = folder / "result.json.tmp"
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "result.json")
