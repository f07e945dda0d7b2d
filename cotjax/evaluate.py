"""Accuracy on held-out problems: `cotjax evaluate --checkpoint runs/NAME`.

Greedy first, then sampled; same prompt, token limit and stop rule for whatever is evaluated: a
run folder, or a model as `model.path` takes it (so that the base is measured like its student).
Further flags are config keys, as for `cotjax train`; a run's own config is the starting point.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.run.opened import config_from_flags, measure, open_model
from cotjax.startup import set_up


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates and prints; 0 if it worked, 2 if the input was wrong."""
    command = Command(
        "evaluate", __doc__, usage="--checkpoint RUN [--KEY VALUE …]", takes_keys=True
    )
    command.add_argument(
        "--checkpoint", metavar="RUN", required=True, help="run folder, or a model"
    )
    command.add_argument(
        "--out", metavar="FILE", type=pathlib.Path, help="JSON file for the numbers"
    )
    known, rest = command.parse(argv)
    numbers = evaluate(known.checkpoint, rest)
    if known.out:
        _write(known.out, numbers)
    _print(known.checkpoint, numbers)
    return 0


def evaluate(checkpoint: str, argv: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of `cotjax.evaluate`, from flags.

    Args:
      checkpoint: a run folder, one of its `checkpoints/<step>`, or a model (see `model.path`).
      argv: config flags.

    Raises:
      InputError: no such checkpoint or model, or a wrong setting.
    """
    return measure(open_model(checkpoint, config_from_flags(checkpoint, argv)))


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
