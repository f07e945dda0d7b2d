"""Who may write a run in a bucket: one process, by an object there that it writes again and again.

Buckets have no locks. The object says who wrote the run last, too, so that a machine knows whether
its own copy is the newest. Times are those of the bucket's clock where it has one.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import time
from typing import Any

from cotjax.errors import InputError
from cotjax.remote.place import RemoteFolder, reason_of

WRITER, PROBE = ".cotjax-writer.json", ".cotjax-probe"
OWN = (WRITER, PROBE)  # objects that are no files of the run
REFRESH = 60.0  # seconds between two writings of the object
STALE = 300.0  # seconds after which nobody is thought to write any more
PAUSE = 1.0  # seconds in which another process, as fast as this one, would have written its name


class LeaseLost(Exception):
    """Another process writes the run now."""


class Lease:
    """The right to write a run.

    Args:
      remote: the run's folder in the bucket.
      own: the id of this machine's copy of the run.

    Attributes:
      id: the same.
    """

    def __init__(self, remote: RemoteFolder, own: str) -> None:
        self._remote, self.id = remote, own
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="lease", daemon=True)

    def take(self) -> str:
        """Takes it; gives the id of who wrote the run last, empty if nobody did.

        Raises:
          InputError: another process writes the run, or the bucket cannot be written.
        """
        try:
            now = probe(self._remote)
            row = writer_of(self._remote)
            last = str(row.get("id", ""))
            if last not in ("", self.id) and not row.get("ended") and self._is_fresh(row, now):
                raise InputError(self._held(row))
            self._write()
            if last != self.id:
                time.sleep(PAUSE)
                if (row := writer_of(self._remote)).get("id") != self.id:
                    raise InputError(self._held(row))
        except InputError:
            raise
        except Exception as error:  # each filesystem has its own
            raise unwritable(self._remote.url, error) from error
        return last

    def keep(self) -> None:
        """Writes it again every minute from now on, in a thread."""
        self._thread.start()

    def check(self) -> None:
        """Looks whether it is still this process's; may raise what the filesystem raises.

        Raises:
          LeaseLost: it is not.
        """
        row = writer_of(self._remote)
        if row and row.get("id") != self.id:
            raise LeaseLost(self._held(row))

    def release(self, *, begun: bool) -> None:
        """Gives it back.

        Args:
          begun: whether there is a run; if not, its name is free again.
        """
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(REFRESH)
        with contextlib.suppress(Exception):  # it is stale in some minutes, then
            self.check()
            self._write(ended=True) if begun else self._remote.remove(WRITER)

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH):
            with contextlib.suppress(Exception):  # the next time, perhaps
                self.check()
                self._write()

    def _write(self, *, ended: bool = False) -> None:
        row = {
            "id": self.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "ended": ended,
        }
        self._remote.write(WRITER, json.dumps(row).encode() + b"\n")

    def _is_fresh(self, row: dict[str, Any], now: datetime.datetime) -> bool:
        written = self._remote.modified(WRITER)
        if written is None:
            try:
                written = datetime.datetime.fromisoformat(str(row.get("time")))
            except ValueError:
                return False
        return (now - written).total_seconds() < STALE

    def _held(self, row: dict[str, Any]) -> str:
        return (
            f"{self._remote.url}: process {row.get('pid')} on {row.get('host')} writes this run "
            f"(last at {row.get('time')}). Wait for it or end it, or choose another --name; one "
            f"that was killed counts for {STALE / 60:.0f} minutes."
        )


def writer_of(remote: RemoteFolder) -> dict[str, Any]:
    """Who wrote a run last, with its id, host, process and time; empty if nobody is known."""
    data = remote.read(WRITER)
    try:
        row = json.loads(data or b"{}")
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def probe(remote: RemoteFolder) -> datetime.datetime:
    """Writes an object and removes it; gives the time, by the bucket's clock if it has one."""
    remote.write(PROBE, b"cotjax writes here\n")
    now = remote.modified(PROBE)
    remote.remove(PROBE)
    return now or datetime.datetime.now(datetime.UTC)


def unwritable(url: str, error: BaseException) -> InputError:
    """The error of a bucket that cannot be written."""
    return InputError(
        f'output = "{url}": cannot be written ({reason_of(error)}). Correct the URL, or give this '
        "machine credentials that may read, write and remove there."
    )
