"""Notices that a machine will be taken away: a run ends as by SIGTERM, and earlier.

Slurm sends a signal that the job asks for (`sbatch --signal=USR1@120`), Kubernetes SIGTERM. The
metadata server of Google's machines, TPU VMs among them, is asked here; it answers when something
changes:

    instance/?recursive=true&wait_for_change=true
    {"preempted": "FALSE", "maintenanceEvent": "NONE", …}

Source: cloud.google.com/compute/docs, "View and query VM metadata" and "Preemptible VMs".
"""

import contextlib
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from cotjax import metadata
from cotjax.training.signals import NOTICE

PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")
WAIT = 60  # seconds that one question waits for a change
AGAIN = 10.0  # seconds after a question that failed


@contextlib.contextmanager
def watch_preemption(tell: Callable[[str], None]) -> Iterator[None]:
    """A block in which a notice to this machine is told and becomes `NOTICE` to this process.

    Elsewhere than on a machine of Google's it does nothing.

    Args:
      tell: is given a sentence when a notice comes.
    """
    if not _is_googles():
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_listen, args=(ended, tell), name="preemption", daemon=True).start()
    try:
        yield
    finally:
        ended.set()  # the thread ends with its question, or with the process


def _is_googles() -> bool:
    """Whether this machine has a metadata server."""
    if metadata.server():
        return True
    try:
        return PRODUCT.read_text("utf-8").strip().startswith("Google")
    except (OSError, UnicodeDecodeError):
        return False


def _listen(ended: threading.Event, tell: Callable[[str], None]) -> None:
    etag = "0"  # of no answer yet: the first question is answered at once
    while not ended.is_set():
        try:
            instance, etag = _ask(etag)
        except (OSError, ValueError):
            ended.wait(AGAIN)
            continue
        notice = _notice(instance)
        if notice and not ended.is_set():
            tell(notice)
            os.kill(os.getpid(), NOTICE)
            return


def _ask(etag: str) -> tuple[Any, str]:
    """What the server says of this machine when that has changed, and the mark of this answer."""
    path = f"?recursive=true&wait_for_change=true&timeout_sec={WAIT}&last_etag={etag}"
    told, etag = metadata.ask(path, patience=2 * WAIT)
    return json.loads(told), etag


def _notice(instance: Any) -> str:
    """A sentence if the machine will be taken away; empty if not."""
    if not isinstance(instance, dict):
        return ""
    if str(instance.get("preempted", "")).upper() == "TRUE":
        return "This machine is being preempted."
    event = str(instance.get("maintenanceEvent", ""))
    if event.startswith("TERMINATE"):
        return f"This machine will be taken away for maintenance ({event})."
    return ""
