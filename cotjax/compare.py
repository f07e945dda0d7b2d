"""Compares runs on the same held-out questions, in the terminal: `cotjax compare A B …`.

Each is a run folder, whose last evaluation counts, or a file that `cotjax evaluate --completions`
wrote. Every further one is compared with the first, question by question: who is right (McNemar's
exact test), and how long answers are (95% bootstrap intervals), in all and per difficulty. Runs
that were tested on different questions are refused. `cotjax report A B` shows them on a page.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.remote.fetch import local_copy
from cotjax.report.paired import Sheet, as_json, check_apart, compare_sheets, read_sheet
from cotjax.report.paired_text import print_compared


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints each comparison; 2 if runs cannot be compared."""
    command = Command("compare", __doc__, usage="A B …")
    command.add_argument(
        "runs", metavar="RUN", nargs="+", help="run folder or its URL, or file of answers"
    )
    command.add_argument(
        "--out", metavar="FILE", type=pathlib.Path, help="JSON file for the numbers"
    )
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    known, _ = command.parse(argv)
    if len(known.runs) < 2:
        raise InputError(f"cotjax compare {known.runs[0]}: needs two runs or more. Name another.")
    paths = [local_copy(path, key="", weights=False) for path in known.runs]
    check_apart("compare", paths)
    first, *others = _named_apart([read_sheet(path) for path in paths], known.runs)
    compared = [(other, compare_sheets(first, other)) for other in others]
    numbers = {other.label: [dataclasses.asdict(one) for one in found] for other, found in compared}
    told = as_json(numbers)
    if known.out:
        try:
            known.out.write_text(told, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--out {known.out}: cannot write there ({error.strerror}). Name a file."
            ) from error
    if known.json:
        print(told, end="")
        return 0
    console = Console(highlight=False, markup=False)
    console.soft_wrap = not console.is_terminal  # each sentence a line where it is piped
    for number, (other, found) in enumerate(compared):
        if number:
            console.print()
        print_compared(console, first, other, found)
    return 0


def _named_apart(sheets: list[Sheet], paths: Sequence[str]) -> list[Sheet]:
    """Sheets of one name, as of two runs `grpo-0`, take their paths as labels."""
    labels = [sheet.label for sheet in sheets]
    return [
        dataclasses.replace(sheet, label=path) if labels.count(sheet.label) > 1 else sheet
        for sheet, path in zip(sheets, paths, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
