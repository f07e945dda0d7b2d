"""Whether a run may go on with other settings than it began with; known before JAX is imported."""

import dataclasses
import pathlib

from cotjax.config import Config
from cotjax.config.resuming import ENDS, applied, refuse, refuse_changes, run_table
from cotjax.run.folder import config_of
from cotjax.run.stage_list import plan


def check_resume(config: Config, folder: pathlib.Path) -> None:
    """Refuses settings that a run, or a stage of a list that was begun, may not change.

    Args:
      config: with which it is to go on.
      folder: of the run, which has begun.

    Raises:
      InputError: names the first such setting.
    """
    if not config.stages:
        refuse_changes(config_of(folder, config), config, folder)
        return
    runs = plan(config, folder)
    names = {own.name for own in runs}
    for file in sorted(folder.glob("*-*/config.toml")):
        if file.parent.name not in names:
            was = file.parent.name
            refuse({"stages": (was, sorted(names))}, folder, why="lists the stages that were begun")
    for number, own in enumerate(runs):
        if own.resume:
            here = folder / own.name
            old = config_of(here, own)
            refuse_changes(old, own, here, chained=number > 0)
            if (here / "result.json").is_file():
                changes = applied(old, own)
                ends = {key: changes[key] for key in ENDS if key in changes}
                refuse(ends, here, why="says when it ends, and it has ended")


def with_ended_stages(config: Config, folder: pathlib.Path) -> Config:
    """The config of a list in which stages that have ended have the settings that they ran with.

    Args:
      config: of the list that goes on.
      folder: of the list.
    """
    old = run_table(folder / "config.toml").get("stages", [])
    ended = [(folder / own.name / "result.json").is_file() for own in plan(config, folder)]
    entries = [
        {**old[number], "stage": entry["stage"]} if done and number < len(old) else entry
        for number, (done, entry) in enumerate(zip(ended, config.stages, strict=True))
    ]
    return dataclasses.replace(config, stages=tuple(entries))
