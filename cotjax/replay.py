"""Takes a step of a run again and compares it: `cotjax replay runs/NAME --step N`.

From the newest checkpoint before the step, going forward as a resumed run does, it says whether
batch, completions, rewards, loss and gradients are equal, bit for bit, to what the run wrote, and
names the first difference. Nothing is written into the run.

The status is 0 if all is equal, 1 if something differs, 2 if the step cannot be taken again.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cotjax.config.command import Command, one_line_errors
from cotjax.run.handle import open_run
from cotjax.startup import set_up

if TYPE_CHECKING:
    from cotjax.interfaces import Step


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Takes the step again and prints what is equal: 0 if all is, 1 if not, 2 for a wrong input."""
    command = Command("replay", __doc__, usage="RUN --step N [--show]")
    command.add_argument(
        "run", metavar="RUN", type=pathlib.Path, help="run folder; of a list, a stage's in it"
    )
    command.add_argument("--step", metavar="N", type=int, required=True, help="1 is the first")
    command.add_argument("--show", action="store_true", help="print a group or row, token by token")
    command.add_argument(
        "--group", metavar="K", type=int, help="show this one, from 1, not the first that differs"
    )
    known, _ = command.parse(argv)
    show = known.group if known.group is not None else 0 if known.show else None
    return replay(known.run, known.step, show=show)


def replay(folder: pathlib.Path, step: int, *, show: int | None = None) -> int:
    """See `main`.

    Args:
      folder: of the run.
      step: from 1.
      show: which group or row to print, from 1; 0 = the first that differs, or the first.

    Returns:
      0 if all is equal to what the run wrote, 1 if not.

    Raises:
      InputError: there is no such run, step, group or row, or a file that it reads is gone.
    """
    open_run(folder)  # refused before JAX is imported
    from cotjax.run.compare import compare, first_of
    from cotjax.run.recompute import recompute
    from cotjax.run.token_tables import Shown, look_at, print_shown
    from cotjax.run.verdict import print_replayed
    from cotjax.run.written import StepRecord, WrittenRun

    written, looks = WrittenRun(folder), list[Shown]()

    def see(stage: Any, params: Any, work: "Step") -> None:
        if show is not None:
            found = first_of(compare(written.step(step), StepRecord.of({}, work)))
            place = found.place if found else 0
            looks.append(look_at(stage, params, work, show or place or 1))

    replayed = recompute(written, step, see=see)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    print_replayed(console, written, replayed)
    for shown in looks:
        console.print()
        print_shown(console, shown)
    return 0 if replayed.equal else 1


if __name__ == "__main__":
    set_up()
    sys.exit(main())
