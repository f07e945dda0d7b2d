"""Runs arms × seeds from a file, and compares them: `cotjax experiment FILE.toml`.

Every arm and seed is a run of its own in OUT/runs. What has ended is not run again, what was
stopped goes on, so the command can be given again at any time, in parts on several machines.
"""

import pathlib
import sys
from collections.abc import Sequence

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.experiment.cells import cells, part_of
from cotjax.experiment.figure import draw
from cotjax.experiment.plan import read_experiment
from cotjax.experiment.results import read_rows
from cotjax.experiment.runner import run_cells
from cotjax.experiment.table import tables


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing and prints the tables; 0 if every run has ended, 1 if one failed."""
    args, _ = _command().parse(argv)
    experiment = read_experiment(args.file)
    out = pathlib.Path(args.out or f"experiments/{experiment.name}")
    if args.validation:
        if not experiment.validation_seeds:
            raise InputError(f"{args.file}: --validation needs validation_seeds. Set some.")
        out = out.with_name(f"{out.name}-validation")
    results = pathlib.Path(args.table) if args.table else out / "results.jsonl"
    if args.table and (args.arm or args.part != "1/1"):
        raise InputError("--table: runs nothing, so there is no --arm or --part. Leave them out.")
    if args.table is None:
        found = list(cells(experiment, validation=args.validation))
        if args.arm:
            unknown = [arm for arm in args.arm if arm not in experiment.arms]
            if unknown:
                raise InputError(
                    f'--arm "{unknown[0]}": {args.file} has no such arm. It has '
                    f"{', '.join(experiment.arms)}."
                )
            found = [cell for cell in found if cell.arm in args.arm]
        found = [cell for cell in found if cell.trains]  # the base is no work for a machine
        part = part_of(found, args.part)
        run_cells(experiment, part, out, lambda text: print(text, flush=True))
        if found and not part:
            print(f"--part {args.part}: nothing to run, as there are {len(found)} runs.")
            return 0
    rows = read_rows(results)
    if not rows:
        raise InputError(
            f"{results}: holds no results. Run an arm that trains (the base is what it begins "
            "from), or name the file of results."
        )
    seeds = experiment.validation_seeds if args.validation else experiment.seeds
    print("\n" + tables(experiment, rows, seeds=seeds))
    if not args.no_figure:
        path = results.with_suffix(".png")
        draw(experiment, rows, path)
        print(f"{results}, {path}")
    return int(any(row.status == "failed" for row in rows))


def _command() -> Command:
    command = Command("experiment", __doc__, usage="FILE.toml [--FLAG VALUE …]")
    add = command.add_argument
    add("file", metavar="FILE.toml", help="arms, seeds, budget and questions")
    add("--out", metavar="FOLDER", help="default: experiments/ and the file's name")
    add("--part", metavar="I/N", default="1/1", help="the I-th of N machines' runs")
    add("--arm", metavar="ARM", action="append", help="only this arm; repeatable")
    add("--validation", action="store_true", help="the validation questions and seeds")
    add("--table", metavar="RESULTS.jsonl", help="run nothing; only compare these results")
    add("--no-figure", action="store_true", help="draw nothing")
    return command


if __name__ == "__main__":
    sys.exit(main())
