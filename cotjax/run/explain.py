"""What a run is about to do, in words: what it trains on what, how, how long, and where it goes.

All of it is known from the config and from runs that have ended, before JAX is imported.
"""

import dataclasses
import pathlib
import tomllib
from collections.abc import Iterator
from typing import Any, cast

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cotjax import __version__
from cotjax.config import Config, is_reference, name_of, stage_class, stage_configs, to_toml
from cotjax.config.reading import keys_of
from cotjax.config.resuming import run_table
from cotjax.config.stages import fact_words
from cotjax.errors import InputError, visible
from cotjax.models.formats.locate import find_run
from cotjax.progress import clock
from cotjax.storage import read_json

# What two runs may differ in and still take the same time.
_ASIDE = ("name", "output", "resume", "seed", "track", "track_project", "data.workers")
_MOST_RUNS = 200  # that are looked through for one with the same settings


_BESIDE = 34  # columns of a terminal from which words stand beside their labels


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run is about to do.

    Attributes:
      sentence: what is trained on what.
      rows: (label, words) of what else there is to know.
      about: the same for programs, as JSON takes it.
    """

    sentence: str
    rows: tuple[tuple[str, str], ...]
    about: dict[str, Any]

    def show(self, console: Console) -> None:
        """Prints it: as wide as a terminal is, and elsewhere a line each."""
        log = not console.is_terminal
        console.print(Text(visible(self.sentence), style="bold"), soft_wrap=log)
        if log:
            width = max(len(label) for label, _ in self.rows)
            for label, words in self.rows:
                console.print(f"  {label.ljust(width)}  {visible(words)}", soft_wrap=True)
            console.print()
            return
        beside = console.width >= _BESIDE
        table = Table.grid(padding=(0, 2))
        for _ in range(2 if beside else 1):
            table.add_column(overflow="fold")
        for label, words in self.rows:
            cells = Text(label, style="cyan"), Text(visible(words))
            for row in [cells] if beside else [(cell,) for cell in cells]:
                table.add_row(*row)
        console.print(Padding(table, (1, 0, 1, 2 if beside else 0)), soft_wrap=False)


def explain(config: Config, folder: pathlib.Path, *, alone: bool = False) -> Summary:
    """What a run is about to do.

    Args:
      config: of a stage, or of a list.
      folder: of the run.
      alone: nothing is trained; says also what is not known yet, and that the folder is taken.
    """
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    rows = [*(_list_rows(config) if config.stages else _stage_rows(config))]
    rows.append(("tested on", _tested(stages)))
    there = ", where it goes on" if config.resume else "; config.toml there has every setting"
    if alone and folder.exists() and not config.resume:
        there = ", which exists: --resume goes on there, another --name is free"
    rows.append(("goes to", f"{folder}{there}"))
    measured = _measured(config)
    if measured:
        rows.append(("time", f"{clock(measured[1])}, as {measured[0]} took with these settings"))
    elif alone:
        rows.append(("time", f"not measured: no run in {config.output} has these settings"))
    return Summary(_sentence(config, stages), tuple(rows), _about(config, stages, folder, measured))


def _sentence(config: Config, stages: list[Config]) -> str:
    first = stages[0]
    how = f"with {name_of(config.stage)}" if not config.stages else f"in {len(stages)} stages"
    return f"Trains {_student(first)} {how} on {_data(first)}."


def _student(config: Config) -> str:
    model = config.model
    words = "the built-in student" if model.path == "tiny" else model.path
    if model.path and model.path != "tiny" and _is_run(model.path):
        words = f"the student of {model.path}"
    if model.init == "random":
        words += " from random weights"
    return f"an adapter of rank {config.lora.rank} on {words}" if config.lora.rank else words


def _is_run(path: str) -> bool:
    try:
        return find_run(pathlib.Path(path)) is not None
    except InputError:
        return False


def _data(config: Config) -> str:
    data = config.data
    if data.mixture:
        return f"a mixture: {data.mixture}"
    if data.source == "problems":
        return f"built-in word problems of {data.min_steps} to {data.max_steps} steps"
    if data.source == "reasoning_gym":
        return f"{data.size:,} problems of {data.path} ({data.source})"
    if is_reference(data.source):
        return f"the records of {name_of(data.source)}"
    return f"{data.path} ({data.source})" if data.source not in ("jsonl", "parquet") else data.path


def _stage_rows(config: Config) -> Iterator[tuple[str, str]]:
    own = stage_class(config.stage)
    if aim := own.aim(config):
        yield "learns", aim
    settings = tomllib.loads(to_toml(config))
    for label, form in own.facts:
        try:
            words = fact_words(form, settings)
        except (LookupError, ValueError, TypeError, AttributeError):
            continue  # a user's, of settings that it does not read
        # What is "auto" is worked out when the stage is opened.
        if known := [part for part in words.split(", ") if "auto" not in part]:
            yield label.lower(), ", ".join(known)
    yield "steps", _steps(config)


def _list_rows(config: Config) -> Iterator[tuple[str, str]]:
    for number, (name, own) in enumerate(stage_configs(config), 1):
        aim = stage_class(own.stage).aim(own)
        budget = f" at most, until {own.budget.tokens:,} tokens are used" * bool(own.budget.tokens)
        steps = f"{own.steps:,} steps{budget}"
        yield f"{number} {name}", f"{aim}; {steps}" if aim else steps


def _steps(config: Config) -> str:
    if config.budget.tokens:
        return f"{config.steps:,} at most, until {config.budget.tokens:,} tokens are used"
    return f"{config.steps:,}, without a budget of tokens"


def _tested(stages: list[Config]) -> str:
    config = stages[-1]
    own = config.eval
    when = ["before and after each stage" if len(stages) > 1 else "before and after"]
    if own.every:
        when.append(f"every {own.every:,} steps")
    if own.at:
        when.append(f"at {', '.join(f'{share:.0%}' for share in own.at)} of the run")
    how = f"greedily and {own.samples} times by sampling" if own.samples else "greedily"
    return f"{own.problems:,} held-out questions {', '.join(when)}, {how}"


def _about(
    config: Config, stages: list[Config], folder: pathlib.Path, measured: tuple[str, float] | None
) -> dict[str, Any]:
    """The summary for programs; see docs/terminal.md."""
    return {
        "version": __version__,
        "name": config.name,
        "folder": str(folder),
        "resume": config.resume,
        "stage": name_of(config.stage),
        "stages": [name for name, _ in stage_configs(config)] if config.stages else [],
        "model": stages[0].model.path,
        "data": _data(stages[0]),
        "steps": sum(own.steps for own in stages),
        "budget_tokens": sum(own.budget.tokens for own in stages),
        "held_out": stages[-1].eval.problems,
        "seed": config.seed,
        "measured_seconds": measured[1] if measured else None,
    }


def _measured(config: Config) -> tuple[str, float] | None:
    """A run with the same settings that has ended in one part, and its seconds; the newest one."""
    output = pathlib.Path(config.output)
    wanted = _timed(tomllib.loads(to_toml(config)))
    try:
        found = [one for one in output.iterdir() if (one / "result.json").is_file()]
        found.sort(key=lambda one: (one / "result.json").stat().st_mtime, reverse=True)
    except OSError:
        return None
    for folder in found[:_MOST_RUNS]:
        try:
            settings = _timed(run_table(folder / "config.toml"))
            result: Any = read_json(folder / "result.json", fix="")
        except InputError:
            continue  # damaged, or of another version
        known = cast(dict[str, Any], result) if isinstance(result, dict) else {}
        seconds = known.get("seconds")
        same = all(settings.get(key) == one or one == "auto" for key, one in wanted.items())
        if isinstance(seconds, int | float) and same and wanted.keys() == settings.keys():
            return str(folder), float(seconds)
    return None


def _timed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, without those that take no time."""
    found: dict[str, Any] = {}
    for key in keys_of(settings):
        value: Any = settings
        for part in key.split("."):
            value = value[part]
        if key not in _ASIDE:
            found[key] = value
    return found
