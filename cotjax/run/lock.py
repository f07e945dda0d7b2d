"""One process owns a run folder: a lock, and who holds it.

The system lets a lock go when its process ends, however that ends; the next one takes it over.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import sys
from collections.abc import Generator

from cotjax.errors import InputError
from cotjax.run.folder import LOCK, OWNER, check_folder
from cotjax.storage import UNBEGUN, unwritten, write_whole

LOOK = 1.0  # seconds; other processes of a run take its lock for an instant, to look as well


@contextlib.contextmanager
def owned(folder: pathlib.Path, *, resume: bool) -> Generator[None]:
    """Makes a run's folder and holds its lock; one that stays empty is removed again.

    Of several processes of a run the first holds it, and all hear whether it could.

    Args:
      folder: of the run.
      resume: whether the run goes on; a new one needs a folder that is still free.

    Raises:
      InputError: another process holds it; names that one. Or the folder cannot be written.
    """
    from cotjax.parallel import processes

    with contextlib.ExitStack() as held:
        told = ""
        if processes.is_first():
            try:
                held.enter_context(_locked(folder))
                check_folder(folder, resume)  # again, for a process that was a little faster
            except InputError as error:
                told = str(error)
        told = processes.from_first(told)
        if told:
            raise InputError(told)
        yield


def refuse_owned(folder: pathlib.Path) -> None:
    """Refuses a run's folder that another process holds; before JAX is imported.

    Raises:
      InputError: names that process.
    """
    from filelock import FileLock, Timeout

    try:
        if not (folder / OWNER).is_file():
            return
        with FileLock(folder / LOCK).acquire(timeout=LOOK):
            pass
    except Timeout as error:
        raise InputError(_held(folder)) from error
    except OSError:  # not ours to look or write into, which is told elsewhere
        pass


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Generator[None]:
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(_held(folder)) from error
    except OSError as error:
        raise unwritten(folder, error, UNBEGUN) from error
    try:
        row = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv,
        }
        write_whole(folder / OWNER, json.dumps(row) + "\n", then=UNBEGUN)
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        if [path.name for path in folder.iterdir()] == [LOCK]:  # a run that did not begin
            with contextlib.suppress(OSError):  # another process takes it at this moment
                (folder / LOCK).unlink()
                folder.rmdir()
        lock.release()


def _held(folder: pathlib.Path) -> str:
    """Who holds the lock, and what to do."""
    try:
        row = json.loads((folder / OWNER).read_bytes())
        who = f"process {row['pid']} on {row['host']}, since {row['started']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just taking it, or letting it go
        who = "another process"
    return f"{folder}: {who}, is writing this run. Wait for it or end it, or choose another --name."
