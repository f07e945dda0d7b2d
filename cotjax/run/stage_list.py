"""A list of stages, each from the one before: stopped anywhere, it goes on where it was."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING, Any, cast

from cotjax.config import Config, name_of, stage_class, stage_configs
from cotjax.errors import InputError, NothingToDo
from cotjax.remote.place import is_url, joined
from cotjax.run.folder import write_config, write_result
from cotjax.run.lock import owned
from cotjax.run.mirrored import Notify, nothing
from cotjax.run.one_stage import run_stage
from cotjax.storage import read_json

if TYPE_CHECKING:
    from cotjax.training.printer import Printer

RESULT = {"name", "before", "after", "steps", "seconds"}  # of a stage's result.json


def run_list(
    config: Config,
    folder: pathlib.Path,
    *,
    began: float,
    printer: Printer | None = None,
    evaluated: Notify = nothing,
) -> pathlib.Path:
    """Runs the stages one after the other; those that have ended are not run again.

    Args:
      config: of the list.
      folder: of the list; each stage has one inside.
      began: when the clock of the first stage that is run started.
      printer: is told what happens; None: one for the standard output.
      evaluated: is told of each evaluation that was written.

    Returns:
      the folder, with result.json (a row for the base and for each stage) and report.html.

    Raises:
      InputError: a stage's input is wrong.
      NothingToDo: no stage of the list has anything to do.
    """
    from cotjax.run.printing import open_printer

    with owned(folder, resume=config.resume):
        return _run_list(config, folder, began, printer or open_printer(), evaluated)


def _run_list(
    config: Config, folder: pathlib.Path, began: float, printer: Printer, evaluated: Notify
) -> pathlib.Path:
    from cotjax.parallel import processes
    from cotjax.report import write_report
    from cotjax.run.summary import say_end

    first = processes.is_first()
    stages = plan(config, folder)
    check_lengths(stages)
    processes.wait("every process knows which stages were begun")
    if first:
        write_config(folder, config)
    results: list[dict[str, Any]] = []
    for number, stage in enumerate(stages, 1):
        own = folder / stage.name
        label = f"stage {number} of {len(stages)}: {stage.name.partition('-')[2]}"
        if (own / "result.json").is_file():
            printer.heading(f"{label}, has ended: {own}", quiet=True)
        else:
            if results:  # a stage between that was left out has no weights
                stage = _beginning_from(stage, results[-1]["name"])
            printer.heading(f"\n{label}, from {stage.model.path}")
            try:
                run_stage(
                    stage, own, began=began, printer=printer, name=stage.name, evaluated=evaluated
                )
            except NothingToDo as error:
                printer.warn(f"{stage.name} is left out: {error}")
                if number == len(stages) and not results:
                    raise
                continue
            began = time.monotonic()
        processes.wait(f"{stage.name} has ended")
        fix = "Remove it and go on with --resume, which measures that stage again."
        result = read_json(own / "result.json", fix=fix)
        if not _is_result(result):
            raise InputError(f"{own / 'result.json'}: is damaged. {fix}")
        results.append(result)
    together = _together(config, results)
    if first:
        write_result(folder, together)
        say_end(printer, folder, write_report(folder), together)
    return folder


def _is_result(result: Any) -> bool:
    """Whether this is what result.json of a stage holds, as far as a list reads it."""
    return isinstance(result, dict) and RESULT <= {*cast(dict[str, Any], result)}


def plan(config: Config, folder: pathlib.Path) -> list[Config]:
    """The runs of a list of stages, in order; each is a folder inside the list's.

    Of a list in a bucket the stages' configs have URLs, so that they mean the same everywhere.
    Every stage begins from the folder of the one before, the first from its `model.path`. A stage
    that was begun is to be resumed.

    Raises:
      InputError: a stage's own settings are wrong.
    """
    runs: list[Config] = []
    output = joined(config.output, config.name) if is_url(config.output) else str(folder)
    for number, (name, own) in enumerate(stage_configs(config), 1):
        here = folder / f"{number}-{name}"
        begun = (here / "config.toml").is_file()
        own = dataclasses.replace(own, output=output, name=here.name, resume=begun)
        runs.append(_beginning_from(own, runs[-1].name) if runs else own)
    return runs


def _beginning_from(config: Config, name: str) -> Config:
    """A stage's config, from the run of an earlier stage of its list."""
    path = joined(config.output, name)
    model = dataclasses.replace(config.model, path=path, init="pretrained", adapter="")
    return dataclasses.replace(config, model=model)


def check_lengths(stages: list[Config]) -> None:
    """Refuses texts longer than the model's context in any stage, before the first one begins.

    Raises:
      InputError: names the stage, the settings and the numbers; or there is no such model.
    """
    from cotjax.student.load import load_from_path
    from cotjax.student.preflight import check_contexts

    model = load_from_path(stages[0].model, seed=0, place=None, init="random").shell
    for config in stages:
        reads = stage_class(config.stage).reads_key("rollout.max_new_tokens")
        try:
            check_contexts(config, model.shape.max_positions, rollout_too=reads)
        except InputError as error:
            raise InputError(f"[[stages]] {config.name}: {error}") from error


def _together(config: Config, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What result.json says of a list whose stages have these results."""
    rows = [{"name": "base", **results[0]["before"]}]
    rows += [{"name": result["name"], **result["after"]} for result in results]
    parts = [
        {"stage": result["name"], **part} for result in results for part in result.get("parts", [])
    ]
    return {
        "before": rows[0],
        "after": rows[-1],
        "stages": rows,
        "steps": sum(result["steps"] for result in results),
        "seconds": round(sum(result["seconds"] for result in results), 1),
        "parts": parts,
        "seed": config.seed,
        "stage": name_of(config.stage),
        "name": config.name,
    }
