"""Runs what an experiment lacks: each arm and seed a process, resumed where it was stopped."""

import contextlib
import dataclasses
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from cotjax.data.duplicates import LEFT_OUT, TRAINED_ON
from cotjax.errors import InputError, Stopped
from cotjax.experiment.cells import BASE, Cell, Experiment
from cotjax.experiment.results import ArmResult, append, collect, read_lines
from cotjax.run.commit import commit_of
from cotjax.training.signals import SIGNALS


def run_cells(
    experiment: Experiment,
    found: Sequence[Cell],
    out: pathlib.Path,
    tell: Callable[[str], None],
) -> None:
    """Runs the cells that have no line yet; a run that fails is a line too, and is tried again.

    Args:
      experiment: from its file.
      found: its cells, or some of them.
      out: folder of the runs, their logs, and results.jsonl.
      tell: is given a sentence for each run.

    Raises:
      InputError: a run folder was begun with other settings, or there can be no such folder.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be made ({error.strerror}). Name a folder."
        ) from error
    results = out / "results.jsonl"
    trained = [cell for cell in found if cell.trains]
    for number, cell in enumerate(trained, 1):
        label = f"[{number}/{len(trained)}] {cell.arm}, seed {cell.seed}"
        lines = read_lines(results)
        known = {(row.arm, row.seed): row for row in lines}
        row = known.get((cell.arm, cell.seed))
        if row and row.status == "done" and row.fingerprint == cell.fingerprint():
            tell(f"{label}: is there, {said(row)}")
            continue
        error = _train(cell, out, f"{experiment.name}.toml, arms.{cell.arm}")
        if error:
            mark, commit = cell.fingerprint(), commit_of()
            row = ArmResult(cell.arm, cell.seed, mark, "failed", commit, error=error)
            append(results, row)
            tell(f"{label}: failed: {error}")
            continue
        base, row = collect(experiment, cell, out / "runs" / cell.name)
        row = dataclasses.replace(row, trained_on=_trained_on(_log(out, cell)))
        bases = {line.began for line in lines if line.arm == BASE}
        append(results, *([] if base.began in bases else [base]), row)
        tell(f"{label}: {said(row)}")
        if row.trained_on:
            tell(f"{label}: note: {row.trained_on}")


def _log(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """What a cell's run prints."""
    return out / "logs" / f"{cell.name}.txt"


def _trained_on(log: pathlib.Path) -> str:
    """The run's note on held-out questions that it was trained on, which only its log has."""
    text = log.read_text("utf-8", errors="replace") if log.is_file() else ""
    notes = [line.removeprefix("note: ") for line in text.splitlines() if line.startswith("note: ")]
    found = [note for note in notes if TRAINED_ON in note and LEFT_OUT not in note]
    return found[-1] if found else ""


def said(row: ArmResult) -> str:
    """The numbers of a row in a few words."""
    numbers = row.numbers
    return (
        f"{numbers['accuracy']:.1%}, {numbers['tokens']:.1f} tokens, after {row.tokens:,} tokens "
        f"in {row.steps} steps and {row.seconds:.0f} s"
    )


def _train(cell: Cell, out: pathlib.Path, where: str) -> str:
    """Trains a cell, or what is left of it; what went wrong, empty if nothing did.

    Args:
      cell: the arm and seed.
      out: see `run_cells`.
      where: the settings stand that the user wrote, for the error: not the file made of them.
    """
    folder, settings = out / "runs" / cell.name, out / "configs" / f"{cell.name}.toml"
    begun = (folder / "config.toml").is_file()
    if begun and not (settings.is_file() and settings.read_text("utf-8") == cell.toml()):
        raise InputError(
            f"{folder}: was begun with other settings than {cell.arm} now has ({settings}). "
            "Remove the folder, or choose another --out."
        )
    if (folder / "result.json").is_file():
        return ""
    for path in (settings, _log(out, cell)):
        path.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(cell.toml(), encoding="utf-8")
    words = ["--config", str(settings), "--output", str(out / "runs"), "--name", cell.name]
    words += ["--resume"] * begun
    with _log(out, cell).open("a", encoding="utf-8") as log:
        code = _run([sys.executable, "-m", "cotjax.train", *words], log)
    if code == 0:
        return ""
    last = _log(out, cell).read_text("utf-8").strip().splitlines()[-1:]
    told = "".join(last).replace(f"--config {settings}", where).replace(str(settings), where)
    return f"status {code}: {told}"


def _run(words: list[str], log: TextIO) -> int:
    """The status of a run; a signal that is to end this process ends the run first, saved.

    Raises:
      Stopped: such a signal came.
    """
    asked: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object = None) -> None:
        asked.append(number)
        for child in children:
            child.send_signal(signal.SIGTERM)  # a second one ends it at once

    with contextlib.ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                undo.callback(signal.signal, number, signal.signal(number, pass_on))
        # A session of its own: the terminal's Ctrl-C reaches it once, by `pass_on`.
        child = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        children.append(child)
        if asked:
            child.send_signal(signal.SIGTERM)  # it came before there was a child
        code = child.wait()
    if asked:
        raise Stopped(asked[0]).and_then("Its run is saved: the same command goes on from there.")
    return code
