"""One stage, from its config to its report."""

import dataclasses
import json
import pathlib

from cotjax.config import Config, name_of, stage_class, to_toml
from cotjax.config.plugins import open_stage
from cotjax.config.reading import merge
from cotjax.errors import InputError, visible
from cotjax.run.folder import console, forget_unbegun, write_config, write_result
from cotjax.run.summary import print_summary
from cotjax.startup import Programs, compiling_side_by_side, counted


def run_stage(config: Config, folder: pathlib.Path, *, began: float) -> pathlib.Path:
    """Runs one stage in its folder; `began` is when its clock started."""
    with counted() as programs:
        return _run_stage(config, folder, began, programs)


def _run_stage(
    config: Config, folder: pathlib.Path, began: float, programs: Programs
) -> pathlib.Path:
    out = console()
    # The heavy imports come after the config is known to be right.
    from cotjax.parallel import processes
    from cotjax.parallel.mesh import make_mesh, use_cpu_cores
    from cotjax.report import write_report
    from cotjax.run.parts import Parts
    from cotjax.student.load import model_bytes
    from cotjax.training.loop import LoopSettings, fit
    from cotjax.training.metrics import StepTable

    use_cpu_cores(model_bytes(config.model.path))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    stage = open_stage(config, mesh)
    config = merge(config, {name: dict(own) for name, own in stage.resolved.items()}, "resolved")
    first = processes.is_first()
    if first and not config.resume:
        write_config(folder, config)
    if first:
        facts = json.dumps(stage_class(config.stage).facts)
        (folder / "facts.json").write_text(facts + "\n", encoding="utf-8")
    parts = Parts(folder, began=began, silent=not first)
    out.print(to_toml(config))
    settings = LoopSettings(
        steps=config.steps,
        eval_every=config.eval.every,
        checkpoint_every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        resume=config.resume,
        eval_at=config.eval.at,
        budget=config.budget.tokens,
        patience=config.supervised.patience,
    )
    table = StepTable(stage.columns, config.steps, out, budget=config.budget.tokens)
    with compiling_side_by_side(stage.programs()):  # weights and data load meanwhile
        try:
            notes = (*stage.notes, *stage.prepare(folder))
        except InputError:
            if first and not config.resume:
                forget_unbegun(folder)
            raise
        for note in notes:
            out.print(visible(f"note: {note}"))
        result = fit(stage, folder, settings, table, out, saved=parts.write)
    if not first:
        return folder
    if config.resume:  # settings that do not fit the checkpoint must not replace those that do
        write_config(folder, config)
    parts.end()
    result |= {"seconds": parts.seconds, "seed": config.seed}
    result |= {"stage": name_of(config.stage), "name": config.name}
    result |= {"programs": dataclasses.asdict(programs), "parts": parts.all}
    write_result(folder, result)
    out.print(f"\nPrograms: {programs}.")
    print_summary(out, folder, write_report(folder), result)
    return folder
