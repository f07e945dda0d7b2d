"""One stage, from its config to its report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING

from cotjax.config import Config, name_of, stage_class
from cotjax.config.plugins import open_stage
from cotjax.config.reading import merge
from cotjax.config.resuming import fingerprint, shaping
from cotjax.errors import InputError, Stopped
from cotjax.hub import commits
from cotjax.progress import waiting
from cotjax.run.data_files import changed_since, data_digests
from cotjax.run.folder import (
    changes_of,
    forget_unbegun,
    keep_traceback,
    write_config,
    write_result,
)  # fmt: skip
from cotjax.run.lock import owned
from cotjax.run.mirrored import Notify, nothing
from cotjax.start_profile import started
from cotjax.startup import Programs, collect_again, compiling_side_by_side, counted
from cotjax.storage import write_whole

if TYPE_CHECKING:
    from cotjax.training.printer import Printer


def run_stage(
    config: Config,
    folder: pathlib.Path,
    *,
    began: float,
    printer: Printer | None = None,
    evaluated: Notify = nothing,
    name: str = "",
) -> pathlib.Path:
    """Runs one stage in its folder, which it owns meanwhile.

    Args:
      config: of the stage.
      folder: its own.
      began: when its clock started.
      printer: is told what happens; None: one for the standard output.
      name: of the stage, if it is one of a list.
      evaluated: is told of each evaluation that was written.

    Raises:
      InputError: the input is wrong, another process runs it, or the disk is full.
      Stopped: a signal came; the run is saved.
      Exception: any other, whose traceback is in error.txt.
    """
    from cotjax.run.printing import open_printer

    with owned(folder, resume=config.resume), counted() as programs:
        try:
            with contextlib.ExitStack() as ending:
                printer = printer or open_printer()
                return _run_stage(config, folder, began, evaluated, programs, ending, printer, name)
        except InputError:
            raise
        except Exception as error:
            keep_traceback(folder, error)
            raise


def _run_stage(
    config: Config,
    folder: pathlib.Path,
    began: float,
    evaluated: Notify,
    programs: Programs,
    ending: contextlib.ExitStack,
    printer: Printer,
    name: str,
) -> pathlib.Path:
    # The heavy imports come after the config is known to be right.
    from cotjax.parallel import processes
    from cotjax.parallel.mesh import run_mesh, use_cpu_cores
    from cotjax.report import write_report
    from cotjax.run.parts import Parts, earlier_parts
    from cotjax.run.remat import with_remat
    from cotjax.run.summary import say_end
    from cotjax.run.tracking import trackers_of
    from cotjax.student.load import model_bytes
    from cotjax.training.loop import LoopSettings, fit
    from cotjax.training.preemption import watch_preemption
    from cotjax.training.signals import StopSignals
    from cotjax.training.trackers import closing

    collect_again()
    started("imports of JAX and what trains", listen=True)
    use_cpu_cores(model_bytes(config.model.path))
    mesh = run_mesh(config.mesh)
    shown = contextlib.ExitStack()
    ending.enter_context(shown)
    shown.enter_context(printer.stage(name))
    with waiting("reading data and settings"):
        config, chosen = with_remat(config, folder, mesh)
        stage = open_stage(config, mesh)
    started("tokenizer and records")
    config = merge(config, {name: dict(own) for name, own in stage.resolved.items()}, "resolved")
    first, changes = processes.is_first(), changes_of(config, folder)
    if first and not config.resume:
        write_config(folder, config)
    if first:
        facts = json.dumps(stage_class(config.stage).facts)
        write_whole(folder / "facts.json", facts + "\n")
    data = data_digests(config) if first else {}
    refused = changed_since(folder, earlier_parts(folder), data) if first and config.resume else ""
    if refused := processes.from_first(refused):
        raise InputError(refused)
    parts = Parts(folder, began=began, silent=not first, changed=changes, data=data, hub=commits())
    for key, (old, new) in changes.items():
        printer.note(f"note: {key} was {json.dumps(old)} and is now {json.dumps(new)}.")

    def saved(first_step: int, last_step: int) -> None:
        if first and config.resume and first_step == last_step:
            write_config(folder, config)  # the checkpoint has taken these settings
        parts.write(first_step, last_step)

    settings = LoopSettings(
        steps=config.steps,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        resume=config.resume,
        eval_at=config.eval.at,
        budget=config.budget.tokens,
        patience=config.supervised.patience,
        shaped_by=shaping(config),
        max_bad_steps=config.training.max_bad_steps,
    )
    printer.columns(stage.columns, config.steps, budget=config.budget.tokens)
    signals = StopSignals(config.checkpoint.grace, printer.warn)
    compiling = compiling_side_by_side(stage.programs())  # weights and data load meanwhile
    with signals, watch_preemption(printer.warn), compiling:
        try:
            with signals.at_once():
                notes = (*stage.notes, *stage.prepare(folder))
                assert stage.state is not None, "weights are read here, where they may be refused"
            started("weights")
        except InputError:
            if first and not config.resume:
                forget_unbegun(folder)
            raise
        except Stopped as stopped:
            raise stopped.and_then("--resume goes on from where the run was.") from stopped
        for note in (*filter(None, [chosen]), *notes):
            printer.note(f"note: {note}")
        begun = earlier_parts(folder) if first else []  # this one has not ended yet
        trackers = trackers_of(config, folder, begun, printer.warn, silent=not first)
        ending.enter_context(closing(trackers))
        with contextlib.ExitStack() as closing_stage:
            closing_stage.callback(getattr(stage, "close", lambda: None))
            result = fit(
                *(stage, folder, settings, printer),
                saved=saved,
                evaluated=evaluated,
                signals=signals,
                trackers=trackers,
            )
    shown.close()
    if not first:
        return folder
    parts.end()
    result |= {"seconds": parts.seconds, "seed": config.seed}
    result |= {"stage": name_of(config.stage), "name": config.name}
    result |= {"fingerprint": fingerprint(shaping(config))}
    result |= {"programs": dataclasses.asdict(programs), "parts": parts.all}
    write_result(folder, result)
    printer.note(f"Programs: {programs}.")
    report = write_report(folder)
    trackers.keep_report(report)
    say_end(printer, folder, report, result)
    return folder
