"""The sizes and SHA-256 of a checkpoint's files, written into it before it counts as whole.

Before a checkpoint is used its files are compared with them, so that a missing, cut or changed one
is found and named.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator

from cotjax.errors import InputError
from cotjax.storage import write_whole

FILE = "checksums.json"
ORBAX = "_CHECKPOINT_METADATA"  # to which Orbax adds when it ended, after all else
ENDED = "commit_success.txt"  # which it writes after the checksums
Damaged = dict[int, str]  # what is wrong with a step's checkpoint


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the checksums of everything in a checkpoint's folder.

    Raises:
      InputError: the disk is full.
    """
    table = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sha256(path)]
        for path in _files(folder)
    }
    write_whole(folder / FILE, json.dumps(table, indent=1) + "\n")


def damage(folder: pathlib.Path) -> str:
    """What is wrong with a checkpoint, by the first file that differs; empty if nothing is.

    Of one without checksums, of an earlier version, no more is known than that it was ended.

    Args:
      folder: of the checkpoint.
    """
    try:
        ended = json.loads((folder / ORBAX).read_bytes())["commit_timestamp_nsecs"]
    except OSError:
        return f"{ORBAX} is missing"
    except (ValueError, TypeError, KeyError):
        return f"{ORBAX} is damaged"
    if not (folder / "state").is_dir():
        return "state is missing"
    if not (folder / FILE).is_file():
        sealed = not ended or (folder / "run").is_dir()  # a version that has it writes checksums
        return f"{FILE} is missing" if sealed else ""
    stats = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in _files(folder, FILE))
    return _damage(folder, stats)


@functools.lru_cache(maxsize=64)  # one command looks at a checkpoint twice, and it may be large
def _damage(folder: pathlib.Path, stats: tuple[tuple[str, int, int], ...]) -> str:
    try:
        table = json.loads((folder / FILE).read_bytes())
        entries = [(str(name), int(size), str(digest)) for name, (size, digest) in table.items()]
    except (ValueError, TypeError, AttributeError):
        return f"{FILE} is damaged"
    for name, size, digest in entries:
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes of {size:,}"
        if _sha256(path) != digest:
            return f"{name} was changed: its SHA-256 is another"
    return ""


def newest_whole(folder: pathlib.Path) -> tuple[int | None, Damaged]:
    """The newest checkpoint that is whole, and what is wrong with those behind it.

    Args:
      folder: with a folder for each step.

    Returns:
      step, None if there is no checkpoint at all; newer ones that are damaged.

    Raises:
      InputError: there are checkpoints, and none of them is whole.
    """
    damaged: Damaged = {}
    for step in steps_in(folder):
        if not any((folder / str(step) / name).exists() for name in (FILE, ENDED)):
            continue  # a kill left it half-written, where folders are not renamed
        damaged[step] = damage(folder / str(step))
        if not damaged[step]:
            del damaged[step]
            return step, damaged
    if damaged:
        found = "; ".join(f"{step}/{wrong}" for step, wrong in damaged.items())
        raise InputError(
            f"{folder}: no checkpoint is whole ({found}). Bring the files back from a copy, or "
            "begin a new run with another --name."
        )
    return None, damaged


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps with a checkpoint in a folder, the newest first."""
    return sorted(
        (int(path.name) for path in folder.glob("*") if path.name.isdigit()), reverse=True
    )


def lost(folder: pathlib.Path, step: int, damaged: Damaged) -> str:
    """A sentence about damaged checkpoints and the steps that are lost with them.

    Args:
      folder: with a folder for each step.
      step: of the newest that is whole.
      damaged: what is wrong with newer ones.
    """
    found = "; ".join(f"{one}/{wrong}" for one, wrong in damaged.items())
    steps = max(damaged) - step
    return (
        f"{folder}: the newest checkpoint is damaged ({found}). The newest whole one, after step "
        f"{step}, is used: {steps} step{'s' * (steps > 1)} {'are' if steps > 1 else 'is'} lost."
    )


def _files(folder: pathlib.Path, *more: str) -> Iterator[pathlib.Path]:
    """Every file in a folder but those written later, in an order that is always the same."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.name in more or path.name not in (FILE, ORBAX)):
            yield path


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
