"""The folder of this machine in which a run of a bucket is computed, or into which it is fetched.

Beside it, in a folder of its own, stand a lock, and a record: as whom this machine wrote to the
bucket, and which versions of files it has.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator

from cotjax.checksums import ENDED, FILE
from cotjax.errors import InputError
from cotjax.remote.place import folder_of, state_of
from cotjax.storage import write_whole

CHECKPOINTS = "checkpoints"
_APART = {CHECKPOINTS, "damaged"}  # folders of checkpoints
_OWN = {".lock", "owner.json"}  # files that mean something on this machine alone
Stat = tuple[int, int]  # a file's size and time of its last change, in ns


class LocalCopy:
    """The local copy of a run in a bucket.

    Args:
      url: of the run.
      key: that named it, for errors.

    Attributes:
      folder: of the run, on this machine.
      writer: the id under which this machine wrote to the bucket; empty if it only fetched.
      files: for each file that is as in the bucket its mark there (empty: uploaded), and its stat.
    """

    def __init__(self, url: str, key: str = "output") -> None:
        self.folder, state = folder_of(url, key), state_of(url)
        self.scratch = state.with_name(f"{state.name}.partial")
        self._record = state.with_name(f"{state.name}.json")
        self._lock = state.with_name(f"{state.name}.lock")
        self.writer = ""
        self.files: dict[str, tuple[str, Stat]] = {}
        self.read()

    def read(self) -> None:
        """Reads the record; what is damaged or missing knows nothing."""
        try:
            row = json.loads(self._record.read_bytes())
            files = {
                name: (mark, (size, time)) for name, (mark, size, time) in row["files"].items()
            }
            self.writer, self.files = str(row["writer"]), files
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.writer, self.files = "", {}

    def save(self) -> None:
        """Writes the record.

        Raises:
          InputError: the disk is full.
        """
        files = {name: [mark, *stat] for name, (mark, stat) in self.files.items()}
        self._record.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._record, json.dumps({"writer": self.writer, "files": files}) + "\n")

    @contextlib.contextmanager
    def locked(self, wait: float) -> Iterator[bool]:
        """Holds the lock, so that one process alone changes the copy; False if another holds it.

        Args:
          wait: seconds to wait for it.

        Raises:
          InputError: there is no place for it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._lock)
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=wait)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise InputError(
                f"{self._lock}: cannot be written ({error.strerror}). Set COTJAX_BUCKETS to a "
                "folder that you may write to; it holds the local copies of runs in buckets."
            ) from error
        try:
            self.read()
            yield True
        finally:
            lock.release()

    @property
    def begun(self) -> bool:
        """Whether a run is in it."""
        return (self.folder / "config.toml").is_file()

    def texts(self) -> dict[str, Stat]:
        """The files of the run beside its checkpoints, by name, as they are now."""
        found: dict[str, Stat] = {}
        for above, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if name not in _APART]
            for name in names:
                path = pathlib.Path(above, name)
                if name not in _OWN and path.suffix != ".tmp":
                    with contextlib.suppress(FileNotFoundError):  # it is just being replaced
                        found[path.relative_to(self.folder).as_posix()] = stat_of(path)
        return found

    def steps(self) -> list[str]:
        """The checkpoints that are whole, as `checkpoints/30` or `2-grpo/checkpoints/30`."""
        steps = (
            path for where in ("", "*/") for path in self.folder.glob(f"{where}{CHECKPOINTS}/*")
        )
        return [
            path.relative_to(self.folder).as_posix()
            for path in steps
            if path.name.isdigit() and (path / FILE).is_file() and (path / ENDED).is_file()
        ]

    def set_aside(self) -> pathlib.Path:
        """Moves the run to a folder beside it, so that the bucket's may take its place."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.aside-{number}")).exists():
            number += 1
        self.folder.rename(aside)
        self.writer, self.files = "", {}
        self.save()
        return aside

    def clear_scratch(self) -> None:
        """Removes what an upload or a fetch that was killed has left."""
        shutil.rmtree(self.scratch, ignore_errors=True)


def stat_of(path: pathlib.Path) -> Stat:
    """A file's size and time of its last change."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def is_text(name: str) -> bool:
    """Whether a file of a run is none of its checkpoints'."""
    return not _APART & {*name.split("/")[:-1]}


def split_step(name: str) -> tuple[str, int, str] | None:
    """Stage, step and file of a checkpoint's file or folder; None if it is none.

    Example:
      >>> split_step("2-grpo/checkpoints/30/state/d/1"), split_step("checkpoints/7")
      (('2-grpo/', 30, 'state/d/1'), ('', 7, ''))
    """
    stage, found, rest = f"/{name}".partition(f"/{CHECKPOINTS}/")
    step, _, file = rest.partition("/")
    if not found or not step.isdigit():
        return None
    stage = stage.removeprefix("/")
    return f"{stage}/" if stage else "", int(step), file
