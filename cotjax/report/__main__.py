"""Writes the page of a run again, also of one that is still running: `cotjax report runs/NAME`.

With several runs it is one page of all of them, each compared with the first: paired tests on the
same held-out questions, curves above each other, answers side by side, settings that differ.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.remote.fetch import local_copy
from cotjax.report.page import MOST_RUNS, write_comparison, write_report
from cotjax.report.paired import check_apart

EVERY = 10  # seconds between two looks of --watch


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes report.html, or one page of several runs, and prints its path; 2 if it cannot."""
    command = Command("report", __doc__, usage="RUN … [--out FILE] [--watch]")
    command.add_argument(
        "folder", metavar="RUN", nargs="+", help="a run folder, such as runs/NAME, or its URL"
    )
    command.add_argument(
        "--out", metavar="FILE", type=Path, help="of several runs; default compared.html"
    )
    command.add_argument(
        "--watch", action="store_true", help=f"write it again every {EVERY} s until the runs end"
    )
    known, _ = command.parse(argv)
    folders = _here(known.folder)
    if len(folders) == 1:
        if known.out is not None:
            raise InputError(
                f"--out {known.out}: the page of one run is its report.html, whose links lead to "
                "its stages. Leave --out out, or name several runs."
            )
        write: Callable[..., Path] = lambda refresh: write_report(folders[0], refresh=refresh)  # noqa: E731
    else:
        if len(folders) > MOST_RUNS:
            raise InputError(
                f"cotjax report: {len(folders)} runs are more than a page tells apart. Name "
                f"{MOST_RUNS} at most."
            )
        check_apart("report", folders)
        page = known.out or Path("compared.html")
        _check_out(page)
        write = lambda refresh: write_comparison(folders, page, refresh=refresh)  # noqa: E731
    if known.watch and not _ended(folders):
        watch(lambda: write(EVERY), lambda: _ended(_here(known.folder, again=True)))
    print(write(0))
    return 0


def _here(runs: Sequence[str], *, again: bool = False) -> list[Path]:
    """The folders of runs on this machine; those in a bucket are fetched."""
    return [local_copy(run, key="", weights=False, again=again) for run in runs]


def _check_out(page: Path) -> None:
    """Before anything is read, that the page will have a place."""
    if page.is_dir() or not page.absolute().parent.is_dir():
        reason = "it is a folder" if page.is_dir() else "its folder is not there"
        raise InputError(f"--out {page}: cannot write there ({reason}). Name a file.")


def _ended(folders: Sequence[Path]) -> bool:
    return all((folder / "result.json").is_file() for folder in folders)


def watch(
    write: Callable[[], Path],
    ended: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Writes a page every `EVERY` seconds until the runs have ended, or Ctrl-C.

    Args:
      write: the page, which looks again by itself while it is open.
      ended: whether training has.
      sleep: waits so many seconds.
    """
    print(f"{write()}, again every {EVERY} s until the training ends; Ctrl-C ends it", flush=True)
    try:
        while not ended():
            sleep(EVERY)
            write()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    sys.exit(main())
