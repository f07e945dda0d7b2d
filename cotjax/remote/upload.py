"""A run's folder, mirrored to its bucket while it trains, by a thread for which no step waits.

Whoever reads the bucket finds whole checkpoints at any moment: a checkpoint's data go before the
file that makes it count, the lines of its steps before the checkpoint, and an older one is removed
after the new one is whole.
"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping

from cotjax.checksums import ENDED, FILE, ORBAX
from cotjax.remote.lease import Lease, LeaseLost
from cotjax.remote.local import LocalCopy, split_step
from cotjax.remote.place import RemoteFile, RemoteFolder, reason_of

POLL = 1.0  # seconds between two looks for a new checkpoint
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before the next try, while the bucket is away
_AT_ONCE = 4  # files of a checkpoint
_MARKS = {"config.toml", "result.json"}  # that say that a run, or a stage, was begun or has ended
_LAST = (ORBAX, ENDED, FILE)  # without the last of these a checkpoint does not count


class Uploader:
    """Uploads a run until it is closed.

    Args:
      remote: the run's folder in the bucket.
      local: its copy here.
      lease: held.
      there: what the bucket holds already.
      keep: how many of the newest checkpoints of a stage stay there.
      warn: prints a line.
    """

    def __init__(
        self,
        remote: RemoteFolder,
        local: LocalCopy,
        lease: Lease,
        there: Mapping[str, RemoteFile],
        *,
        keep: int,
        warn: Callable[[str], None],
    ) -> None:
        self._remote, self._local, self._lease, self._keep = remote, local, lease, keep
        self._warn = warn
        steps = (split_step(name) for name in there)
        self._steps = {f"{one[0]}checkpoints/{one[1]}" for one in steps if one}  # in the bucket
        # Those there that are whole, with the checksums of the ones here.
        self._whole = {
            step
            for step in local.steps()
            if f"{step}/{FILE}" in there
            and remote.read(f"{step}/{FILE}") == (local.folder / step / FILE).read_bytes()
        }
        self._seen = {*local.steps()}
        local.files = {name: known for name, known in local.files.items() if name in there}
        self._tried: set[str] = set()  # checkpoints here that a failed try was for
        self._sent: set[str] = set()  # files of a checkpoint whose upload was broken off
        self._asked, self._warned = False, False
        self._wake, self._ending = threading.Event(), threading.Event()
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name="upload", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._local.clear_scratch()
        self._thread.start()

    def notify(self) -> None:
        """Says that something was written which the bucket should have soon: an evaluation."""
        self._asked = True
        self._wake.set()

    def close(self) -> str:
        """Uploads what is left, and ends; what went wrong with that, empty if nothing did."""
        self._ending.set()
        self._wake.set()
        while self._thread.is_alive():
            self._thread.join(1.0)  # so that Ctrl-C is heard
        self._local.clear_scratch()
        return self._reason

    def _run(self) -> None:
        while True:
            ending = self._ending.is_set()
            new = {*self._local.steps()} - self._whole - self._tried
            if self._asked or new or ending:
                self._asked = False
                self._reason = self._try(ending)
                if self._reason and not self._ending.is_set() and (new or not self._warned):
                    self._warn(
                        f"{self._remote.url}: not uploaded ({self._reason}). Training goes on, "
                        f"{self._local.folder} has everything, and the next checkpoint tries again."
                    )
                self._warned = bool(self._reason)
                if not self._reason:
                    self._tried.clear()
            if ending:
                return
            self._wake.wait(POLL)
            self._wake.clear()

    def _try(self, ending: bool) -> str:
        """Uploads what the bucket lacks, several times if need be; what went wrong at last."""
        for pause in (*PAUSES, None):
            try:
                self._upload()
                return ""
            except LeaseLost as lost:
                return str(lost)
            except Exception as error:  # each filesystem has its own
                reason = reason_of(error)
            if pause is None or (self._ending.is_set() and not ending):
                break  # the end has tries of its own
            time.sleep(pause) if ending else self._ending.wait(pause)
        return reason

    def _upload(self) -> None:
        self._lease.check()
        while True:
            texts = self._local.texts()  # before the checkpoints, whose lines are in them
            waiting = [step for step in self._local.steps() if step not in self._whole]
            self._tried.update(waiting)
            # That a run has ended is said when its last checkpoint is there.
            self._send_texts({name: stat for name, stat in texts.items()
                              if not waiting or not name.endswith("result.json")})  # fmt: skip
            if not waiting:
                return
            self._send_step(max(waiting, key=lambda step: (split_step(step) or ("", 0))[1]))
            self._lease.check()

    def _send_texts(self, texts: Mapping[str, tuple[int, int]]) -> None:
        """Uploads those that are not as they were; `_MARKS` come last."""
        copy = self._local.scratch / "text"
        copy.parent.mkdir(parents=True, exist_ok=True)
        for name in sorted(
            texts, key=lambda name: (pathlib.Path(name).name in _MARKS, -name.count("/"))
        ):
            if name in self._local.files and self._local.files[name][1] == texts[name]:
                continue
            try:
                shutil.copyfile(self._local.folder / name, copy)  # what grows is cut off here
            except FileNotFoundError:
                continue
            self._remote.put(copy, name)
            self._local.files[name] = "", texts[name]
            self._local.save()

    def _send_step(self, step: str) -> None:
        """Uploads a checkpoint, of which the run may remove its own meanwhile."""
        links = self._linked(step)
        if links is None:  # the run has removed it
            return
        self._seen.add(step)
        if step in self._steps:  # a part of it is there, or another one of this step
            self._remote.remove(f"{step}/{FILE}")
        self._steps.add(step)
        names = [path.relative_to(links).as_posix() for path in links.rglob("*") if path.is_file()]
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as threads:
            data = (name for name in names if name not in _LAST)
            for _ in threads.map(lambda name: self._put(links, step, name), data):
                pass
        for name in _LAST:
            if name in names:
                self._put(links, step, name)
        self._whole.add(step)
        self._sent.clear()
        shutil.rmtree(links, ignore_errors=True)
        self._remove_old(step)

    def _put(self, links: pathlib.Path, step: str, name: str) -> None:
        if f"{step}//{name}" not in self._sent:
            self._remote.put(links / name, f"{step}/{name}")
            self._sent.add(f"{step}//{name}")

    def _linked(self, step: str) -> pathlib.Path | None:
        """The checkpoint's files under another name, which stay; None if it is gone."""
        links, folder = self._local.scratch / step, self._local.folder / step
        if _is_complete(links):
            return links  # of a try before
        self._local.clear_scratch()
        try:
            for path in [*folder.rglob("*")]:
                if path.is_file():
                    link = links / path.relative_to(folder)
                    link.parent.mkdir(parents=True, exist_ok=True)
                    _link(path, link)
        except FileNotFoundError:  # it is just being removed
            return None
        return links if _is_complete(links) else None

    def _remove_old(self, newest: str) -> None:
        """Removes the checkpoints of a stage there that are gone here, and leftovers of uploads."""
        stage = newest.rpartition("/")[0]
        there = [step for step in self._steps if step.rpartition("/")[0] == stage]
        there.sort(key=lambda step: int(step.rpartition("/")[2]), reverse=True)
        here = {*self._local.steps()}
        for place, step in enumerate(there):
            gone = step not in here and step != newest
            if gone and (step in self._seen or place >= self._keep):
                self._remote.remove(f"{step}/{FILE}")
                self._remote.remove_folder(step)
                self._steps.discard(step)
                self._whole.discard(step)


def _is_complete(folder: pathlib.Path) -> bool:
    """Whether all files that a checkpoint's checksums name are there."""
    if not (folder / FILE).is_file():
        return False
    return all((folder / name).is_file() for name in json.loads((folder / FILE).read_bytes()))


def _link(path: pathlib.Path, link: pathlib.Path) -> None:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or none that links
        shutil.copyfile(path, link)
