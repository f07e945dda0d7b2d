"""What the files of records hold, as parts.json notes it: a run is replayed on the same ones."""

import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cotjax.config import Config, is_reference, stage_class
from cotjax.config.mixture import parse_mixture
from cotjax.errors import InputError

Digests = dict[str, str]  # by the path as the config has it

WHOLE = 2**26  # bytes of a file that is hashed as a whole
ENDS = 2**16  # bytes at each end of a larger one


def data_digests(config: Config) -> Digests:
    """12 hexadecimal digits of each file or folder of records that a run reads, by its path.

    A file above 64 MiB counts by its size and both ends, so that a start costs no second.

    Args:
      config: of the run.
    """
    return {path: digest for path in _paths(config) if (digest := _digest(pathlib.Path(path)))}


def _paths(config: Config) -> Iterator[str]:
    data, found = config.data, dict[str, None]()
    if data.mixture:
        found |= dict.fromkeys(path for _, path, _ in parse_mixture(data.mixture))
    elif not is_reference(data.source):
        found[data.path] = None
    found[data.eval_path] = None
    if stage_class(config.stage).reads_key("teachers.paths"):
        found |= dict.fromkeys(path for path in config.teachers.paths if path.endswith(".jsonl"))
    yield from filter(None, found)


def _digest(path: pathlib.Path) -> str:
    """Empty if nothing lies there, as behind the name of a data set of the Hub."""
    inside = sorted(path.rglob("*")) if path.is_dir() else [path]
    files, whole = [file for file in inside if file.is_file()], hashlib.sha256()
    for file in files:
        for part in _parts(file, file.relative_to(path).as_posix()):
            whole.update(part)
    return whole.hexdigest()[:12] if files else ""


def _parts(file: pathlib.Path, name: str) -> Iterator[bytes]:
    """What of a file is hashed."""
    try:
        with file.open("rb") as content:
            size = file.stat().st_size
            yield f"{name} {size} ".encode()
            if size <= WHOLE:
                yield content.read()
                return
            yield content.read(ENDS)
            content.seek(-ENDS, os.SEEK_END)
            yield content.read()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}).") from error


def changed_files(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Sentences about files that are others than they were.

    Args:
      then: digests by path.
      now: the same, of today.
    """
    told: list[str] = []
    for path, digest in then.items():
        if path not in now:
            told.append(f"{path}: the file of records is gone.")
        elif now[path] != digest:
            told.append(
                f"{path}: the file of records was changed since: its digest was {digest}, "
                f"and is {now[path]}."
            )
    return told


def changed_since(folder: pathlib.Path, parts: Sequence[Mapping[str, Any]], now: Digests) -> str:
    """Why a run cannot go on with the files of records that are there; empty if it can.

    Its place in the data would be another, and nothing would say so.

    Args:
      folder: of the run.
      parts: of the run so far.
      now: digests of today.
    """
    noted: list[Digests] = [one["data"] for one in parts if "data" in one]
    then = noted[-1] if noted else {}
    told = changed_files({path: one for path, one in then.items() if path in now}, now)
    if not told:
        return ""
    return (
        f"--resume: {told[0]} Bring the old one back, or begin another run from this one: "
        f"--name NEW --model.path {folder}."
    )
