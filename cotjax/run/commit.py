"""Which code trains: the commit of its checkout."""

import pathlib
import subprocess

from cotjax import __version__

PACKAGE = pathlib.Path(__file__).parents[1]


def commit_of(folder: pathlib.Path = PACKAGE) -> str:
    """The commit of a folder's checkout, with `+` if its files differ; else the version.

    Args:
      folder: of a package; one that its checkout does not track, as an installed one inside a
        project of somebody else, has no commit.
    """
    try:
        tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        found = _git(folder, "rev-parse", "--short=9", "HEAD")
        changed = _git(folder, "status", "--porcelain", ".")
    except OSError:  # there is no git
        return __version__
    if tracked.returncode or found.returncode:
        return __version__
    return found.stdout.strip() + "+" * bool(changed.stdout.strip())


def _git(folder: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
