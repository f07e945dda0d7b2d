"""`python -m cotjax.evaluate --checkpoint runs/NAME`: accuracy on held-out problems.

Greedy first, then sampled; same prompt, token limit and stop rule for whatever is evaluated: a
run folder, or a model as `model.path` takes it (so that the base is measured like its student).
Further flags are config keys, as for `cotjax.train`; a run's own config is the starting point.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from cotjax import config as configs
from cotjax.config import Config
from cotjax.errors import InputError
from cotjax.startup import set_up


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and prints; 0 if it worked, 2 if the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m cotjax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="run folder, or a model")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the numbers")
    known, rest = parser.parse_known_args(argv)
    try:
        numbers = evaluate(known.checkpoint, rest)
        if known.out:
            _write(known.out, numbers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print(known.checkpoint, numbers)
    return 0


def evaluate(checkpoint: str, argv: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of `cotjax.training.evaluation.summarize`, and the checkpoint's `step`.

    Args:
      checkpoint: a run folder, one of its `checkpoints/<step>`, or a model (see `model.path`).
      argv: config flags.

    Raises:
      InputError: no such checkpoint or model, or a wrong setting.
    """
    from cotjax.student import preflight
    from cotjax.student.evaluate import evaluate
    from cotjax.student.records import load_records

    config, mesh, student, step, params = open_checkpoint(checkpoint, argv)
    preflight.check_fits(student, mesh, preflight.evaluation_use(config, student, mesh))
    _, held_out = load_records(config, student.tokenizer, student.prompts)
    numbers, _ = evaluate(student, config, mesh, params, held_out)
    return {"step": step} | numbers


def open_checkpoint(checkpoint: str, argv: Sequence[str] = ()) -> tuple[Config, Any, Any, int, Any]:
    """(config, mesh, student, step, parameters) of a run, one of its checkpoints, or a model.

    Raises:
      InputError: no such checkpoint or model, or a wrong setting.
    """
    from cotjax.parallel.mesh import make_mesh, use_cpu_cores
    from cotjax.student.load import load_policy, model_bytes
    from cotjax.training.checkpoint import find_run, restore_params

    folder = pathlib.Path(checkpoint)
    run = find_run(folder)
    config = _config(run, checkpoint, argv)
    use_cpu_cores(model_bytes(config.model.path))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    student = load_policy(config, mesh)
    step, params = restore_params(folder, student.shapes) if run else (0, student.params)
    return config, mesh, student, step, params


def _config(run: pathlib.Path | None, checkpoint: str, argv: Sequence[str]) -> Config:
    if run is None:
        return configs.load([*argv, "--model.path", checkpoint])
    config = configs.load(["--config", str(run / "config.toml"), *argv])
    if config.lora.rank:  # the checkpoint holds the adapter; its base is loaded as it was
        return config
    # Only the shape and the tokenizer are needed; the weights are the checkpoint's.
    return dataclasses.replace(config, model=dataclasses.replace(config.model, init="random"))


def _write(path: pathlib.Path, numbers: dict[str, float]) -> None:
    try:
        path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {path}: cannot write there ({error.strerror}).") from error


def _print(checkpoint: str, numbers: dict[str, float]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{checkpoint}, step {numbers['step']}", style="bold")
    for name, value in numbers.items():
        if name != "step":
            console.print(f"  {name.ljust(18)} {value:.4g}")


if __name__ == "__main__":
    set_up()
    sys.exit(main())
