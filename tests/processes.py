"""Processes that tests start, and whether they end."""

import os
import time


def is_alive(process):
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def outlive(processes, seconds=15.0):
    """Those of some processes that are still there after so many seconds."""
    end = time.monotonic() + seconds
    while (left := [one for one in processes if is_alive(one)]) and time.monotonic() < end:
        time.sleep(0.1)
    return left
