"""Command line: writes the report pages of run folders again, also of runs in progress."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cotjax.errors import InputError
from cotjax.report.page import write_report


def main(argv: Sequence[str] | None = None) -> int:
    """Writes each folder's report.html and prints its path; 2 if one cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m cotjax.report", description=__doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="a run folder, such as runs/NAME")
    try:
        for folder in parser.parse_args(argv).folder:
            print(write_report(folder))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
