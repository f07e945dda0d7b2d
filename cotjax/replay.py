"""Takes a step of a run again and compares it: `cotjax replay runs/NAME --step N`.

From the newest checkpoint before the step, going forward as a resumed run does, it says whether
batch, completions, rewards, loss and gradients are equal, bit for bit, to what the run wrote, and
names the first difference. Nothing is written into the run. With --bundle it is the step of a
bundle (a step with a NaN), whose batch and numbers are compared too.

The status is 0 if all is equal, 1 if something differs, 2 if the step cannot be taken again.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.remote.fetch import local_copy
from cotjax.remote.place import is_url
from cotjax.run.handle import open_run
from cotjax.startup import set_up

if TYPE_CHECKING:
    from cotjax.interfaces import Step
    from cotjax.training.bundle import Bundle


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Takes the step again and prints what is equal: 0 if all is, 1 if not, 2 for a wrong input."""
    command = Command("replay", __doc__, usage="RUN --step N [--show], or --bundle FOLDER")
    command.add_argument(
        "run", metavar="RUN", nargs="?", help="run folder or its URL; of a list, a stage's"
    )
    command.add_argument("--step", metavar="N", type=int, help="which step; 1 is the first")
    command.add_argument("--bundle", metavar="FOLDER", help="of a bad step, RUN/bad_step-N")
    command.add_argument("--show", action="store_true", help="print a group or row, token by token")
    command.add_argument(
        "--group", metavar="K", type=int, help="show this one, from 1, not the first that differs"
    )
    known, _ = command.parse(argv)
    show = known.group if known.group is not None else 0 if known.show else None
    if known.bundle is None:
        if known.run is None or known.step is None:
            raise InputError("cotjax replay: needs RUN and --step N, or --bundle FOLDER.")
        return replay(_here(known.run, known.step), known.step, show=show)
    if known.step is not None:
        raise InputError(
            f"--step {known.step}: a bundle is of one step, which it knows. Leave --step out."
        )
    from cotjax.training.bundle import read_bundle

    bundle = read_bundle(local_copy(known.bundle, key="--bundle", weights=False))
    run = known.run
    if run is None and is_url(known.bundle):
        run = known.bundle.rstrip("/").rpartition("/")[0]
    elif run is None:
        run = str(pathlib.Path(known.bundle).parent)
    return replay(_here(run, bundle.step), bundle.step, show=show, bundle=bundle)


def _here(run: str, step: int) -> pathlib.Path:
    """The run's folder on this machine; of one in a bucket with the checkpoint before a step."""
    return local_copy(run, key="", below=step)


def replay(
    folder: pathlib.Path, step: int, *, show: int | None = None, bundle: "Bundle | None" = None
) -> int:
    """See `main`.

    Args:
      folder: of the run.
      step: from 1.
      show: which group or row to print, from 1; 0 = the first that differs, or the first.
      bundle: of the step, with which it is compared too, and on whose batch the update is made.

    Returns:
      0 if all is equal to what the run wrote, 1 if not.

    Raises:
      InputError: there is no such run, step, group or row, or a file that it reads is gone.
    """
    open_run(folder)  # refused before JAX is imported
    from cotjax.run.compare import Compared, compare, first_of
    from cotjax.run.recompute import recompute
    from cotjax.run.token_tables import Shown, look_at, print_shown
    from cotjax.run.verdict import print_replayed
    from cotjax.run.written import StepRecord, WrittenRun

    written, looks, bundled = WrittenRun(folder), list[Shown](), list[Compared]()

    def see(stage: Any, params: Any, work: "Step") -> "Step":
        if bundle is not None:
            from cotjax.run.bundled import compare_batch

            bundled.append(compare_batch(bundle, work.batch))
            made = work.batch if work.data is None else work.data  # its digest is the run's
            work = dataclasses.replace(work, batch=bundle.fill(work.batch), data=made)
        if show is not None:
            found = first_of(compare(written.step(step), StepRecord.of({}, work)))
            place = found.place if found else 0
            looks.append(look_at(stage, params, work, show or place or 1))
        return work

    replayed = recompute(written, step, see=see)
    if bundle is not None:
        from cotjax.run.bundled import compare_metrics

        bundled.append(compare_metrics(bundle, replayed.metrics))
        replayed = dataclasses.replace(
            replayed,
            findings=[*replayed.findings, *bundled],
            notes=(*(f"{bundle.folder}: {cause}" for cause in bundle.causes), *replayed.notes),
        )
    console = Console(highlight=False, markup=False, soft_wrap=True)
    print_replayed(console, written, replayed)
    for shown in looks:
        console.print()
        print_shown(console, shown)
    return 0 if replayed.equal else 1


if __name__ == "__main__":
    set_up()
    sys.exit(main())
