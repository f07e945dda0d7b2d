"""The Python API of a run: one stage, or a list of stages, from a config to a report."""

import dataclasses
import json
import os
import pathlib
import time
from typing import Any

from rich.console import Console

from cotjax.config import Config, name_of, stage_class, stage_configs, to_toml
from cotjax.config.reading import merge
from cotjax.errors import InputError, NothingToDo
from cotjax.startup import STARTED, Programs, counted


def run(config: Config) -> pathlib.Path:
    """Trains as the config says: one stage, or a list of stages in order.

    Returns:
      the run folder, with config.toml, metrics.jsonl, completions.jsonl, checkpoints,
      result.json and report.html; that of a list holds one such folder per stage.

    Raises:
      InputError: before anything is compiled, if the input is wrong.
    """
    from cotjax.parallel import processes

    processes.join()
    folder = pathlib.Path(config.output) / config.name
    _check_folder(folder, config.resume)
    processes.wait("every process has checked the folder")
    if config.stages:
        return run_list(config, folder)
    return run_stage(config, folder, began=STARTED)


def run_list(config: Config, folder: pathlib.Path) -> pathlib.Path:
    """Runs the stages one after the other; those that have ended are not run again."""
    from cotjax.parallel import processes
    from cotjax.report import write_report

    console, first = _console(), processes.is_first()
    stages = plan(config, folder)
    check_lengths(stages)
    processes.wait("every process knows which stages were begun")
    if first:
        _write_config(folder, config)
    results: list[dict[str, Any]] = []
    for stage in stages:
        own = folder / stage.name
        if not (own / "result.json").is_file():
            console.rule(f"{stage.name}, from {stage.model.path}", style="dim")
            try:
                run_stage(stage, own, began=time.monotonic() if results else STARTED)
            except NothingToDo as error:
                console.print(f"{stage.name} is left out: {error}", style="yellow")
                continue
        processes.wait(f"{stage.name} has ended")
        results.append(json.loads((own / "result.json").read_text("utf-8")))
    rows = [{"name": "base", **results[0]["before"]}]
    rows += [{"name": result["name"], **result["after"]} for result in results]
    result = {
        "before": rows[0],
        "after": rows[-1],
        "stages": rows,
        "steps": sum(result["steps"] for result in results),
        "seconds": round(sum(result["seconds"] for result in results), 1),
        "seed": config.seed,
        "stage": name_of(config.stage),
        "name": config.name,
    }
    if first:
        _write_result(folder, result)
        _print_stages(console, rows)
        report = write_report(folder)
        told = f"{result['seconds']:.0f} seconds. Everything is in {folder}; open {report}"
        console.print("\n" + told)
    return folder


def plan(config: Config, folder: pathlib.Path) -> list[Config]:
    """The runs of a list of stages, in order; each is a folder inside the list's.

    Every stage begins from the folder of the one before, the first from its `model.path`. A stage
    that was begun is to be resumed.

    Raises:
      InputError: a stage's own settings are wrong.
    """
    before, runs = "", []
    for number, (name, own) in enumerate(stage_configs(config), 1):
        here = folder / f"{number}-{name}"
        if before:
            model = dataclasses.replace(own.model, path=before, init="pretrained")
            own = dataclasses.replace(own, model=model)
        begun = (here / "config.toml").is_file()
        runs.append(dataclasses.replace(own, output=str(folder), name=here.name, resume=begun))
        before = str(here)
    return runs


def check_lengths(stages: list[Config]) -> None:
    """Refuses texts longer than the model's context in any stage, before the first one begins.

    Raises:
      InputError: names the stage, the settings and the numbers; or there is no such model.
    """
    from cotjax.student.load import load_from_path
    from cotjax.student.preflight import check_contexts

    model = load_from_path(stages[0].model, seed=0, place=None, init="abstract").model
    for config in stages:
        reads = stage_class(config.stage).reads_key("rollout.max_new_tokens")
        try:
            check_contexts(config, model.shape.max_positions, rollout_too=reads)
        except InputError as error:
            raise InputError(f"[[stages]] {config.name}: {error}") from error


def run_stage(config: Config, folder: pathlib.Path, *, began: float) -> pathlib.Path:
    """Runs one stage in its folder; `began` is when its clock started."""
    with counted() as programs:
        return _run_stage(config, folder, began, programs)


def _run_stage(
    config: Config, folder: pathlib.Path, began: float, programs: Programs
) -> pathlib.Path:
    console = _console()
    # The heavy imports come after the config is known to be right.
    from cotjax.parallel import processes
    from cotjax.parallel.mesh import make_mesh, use_cpu_cores
    from cotjax.report import write_report
    from cotjax.student.load import model_bytes
    from cotjax.training.loop import LoopSettings, fit
    from cotjax.training.metrics import StepTable

    use_cpu_cores(model_bytes(config.model.path))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    stage = stage_class(config.stage).from_config(config, mesh)
    config = merge(config, {name: dict(own) for name, own in stage.resolved.items()}, "resolved")
    first = processes.is_first()
    if first and not config.resume:
        _write_config(folder, config)
    if first:
        facts = json.dumps(stage_class(config.stage).facts)
        (folder / "facts.json").write_text(facts + "\n", encoding="utf-8")
    console.print(to_toml(config))
    for note in (*stage.notes, *stage.prepare(folder)):
        console.print(f"note: {note}")
    settings = LoopSettings(
        steps=config.steps,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        resume=config.resume,
    )
    table = StepTable(stage.columns, config.steps, console)
    result = fit(stage, folder, settings, table, console)
    if not first:
        return folder
    if config.resume:  # settings that do not fit the checkpoint must not replace those that do
        _write_config(folder, config)
    result |= {"seconds": round(time.monotonic() - began, 1), "seed": config.seed}
    result |= {"stage": name_of(config.stage), "name": config.name}
    result |= {"programs": dataclasses.asdict(programs)}
    _write_result(folder, result)
    console.print(f"\nPrograms: {programs}.")
    _print_summary(console, folder, write_report(folder), result)
    return folder


def _console() -> Console:
    from cotjax.parallel.processes import is_first

    return Console(highlight=False, soft_wrap=True, markup=False, quiet=not is_first())


def _write_result(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """In one piece: in a list of stages, one that has a result has ended."""
    temporary = folder / "result.json.tmp"
    temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "result.json")


def _check_folder(folder: pathlib.Path, resume: bool) -> None:
    try:
        begun = (folder / "config.toml").is_file()
        rest = {path.name for path in folder.iterdir()} if folder.exists() else set()
        taken = bool(rest - {"config.toml.tmp"})
    except OSError as error:  # a file in its place, a folder of somebody else, a name too long
        raise InputError(
            f"{folder}: cannot be a run folder ({error.strerror}). "
            "Choose another --name or --output."
        ) from error
    if resume and not begun:
        raise InputError(f"--resume: {folder} is not a run. Name one that was begun, or drop it.")
    if not resume and taken:
        raise InputError(f"{folder} exists. Add --resume to continue it, or choose another --name.")


def _write_config(folder: pathlib.Path, config: Config) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without `resume`, so that the file repeats the run.
        text = to_toml(dataclasses.replace(config, resume=False))
        temporary = folder / "config.toml.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / "config.toml")  # in one piece: it marks a run as begun
    except OSError as error:
        raise InputError(
            f'output = "{config.output}": cannot write {folder} ({error.strerror}). '
            "Set --output to a folder that you may write to."
        ) from error


def _print_summary(
    console: Console, folder: pathlib.Path, report: pathlib.Path, result: dict[str, Any]
) -> None:
    for when in ("before", "after"):
        console.print(f"\nTwo completions {when}:", style="bold")
        for row in _samples(folder, when):
            verdict = "right" if row["parts"]["correct"] else "wrong"
            console.print(f"{row['question']}", style="dim")
            console.print(f"{row['completion']}\n({row['tokens']} tokens, {verdict})")
    before, after = result["before"], result["after"]
    console.print("\nHeld-out problems".ljust(24) + "before    after", style="bold")
    for name, form in (
        ("accuracy", "{:.1%}"),
        ("sampled_accuracy", "{:.1%}"),
        ("tokens", "{:.1f}"),
        ("well_formed", "{:.1%}"),
        ("truncated", "{:.1%}"),
    ):
        if name in before:
            cells = (form.format(numbers[name]).rjust(8) for numbers in (before, after))
            console.print(f"{name.ljust(21)}" + " ".join(cells))
    console.print(f"\n{result['seconds']:.0f} seconds. Everything is in {folder}; open {report}")


_NUMBERS = (
    ("accuracy", "greedy", "{:.1%}"),
    ("sampled_accuracy", "sampled", "{:.1%}"),
    ("tokens", "tokens", "{:.1f}"),
    ("sampled_tokens", "sampled tokens", "{:.1f}"),
    ("truncated", "truncated", "{:.1%}"),
)


def _print_stages(console: Console, rows: list[dict[str, Any]]) -> None:
    """Held-out numbers of the base and after each stage."""
    shown = [number for number in _NUMBERS if number[0] in rows[0]]
    heads = [title.rjust(max(len(title), 8)) for _, title, _ in shown]
    console.print("\n" + "Held-out problems".ljust(20) + "  ".join(heads), style="bold")
    for row in rows:
        cells = [
            form.format(row[name]).rjust(len(head))
            for (name, _, form), head in zip(shown, heads, strict=True)
        ]
        interval = f"  ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})"
        console.print(row["name"].ljust(20) + "  ".join(cells) + interval)


def _samples(folder: pathlib.Path, when: str) -> list[dict[str, Any]]:
    with (folder / "completions.jsonl").open(encoding="utf-8") as lines:
        rows = (row for row in map(json.loads, lines) if row["kind"] == when)
        return [row for row, _ in zip(rows, range(2), strict=False)]
