"""Writes the page of a run again, also of one that goes on: `cotjax report runs/NAME`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cotjax.config.command import Command, one_line_errors
from cotjax.report.page import write_report


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes each folder's report.html and prints its path; 2 if one cannot be written."""
    command = Command("report", __doc__, usage="RUN …")
    command.add_argument(
        "folder", metavar="RUN", nargs="+", type=Path, help="a run folder, such as runs/NAME"
    )
    known, _ = command.parse(argv)
    for folder in known.folder:
        print(write_report(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
