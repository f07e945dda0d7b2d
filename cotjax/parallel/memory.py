"""How much memory devices have left."""

import contextlib
import contextvars
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from jax.sharding import Mesh

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED: contextvars.ContextVar[bool] = contextvars.ContextVar("unlimited", default=False)


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lets devices seem to have any memory while the block runs: a plan asks the compiler."""
    before = _UNLIMITED.set(True)
    try:
        yield
    finally:
        _UNLIMITED.reset(before)


def free_bytes(mesh: Mesh) -> int:
    """Bytes that each device of the mesh can still allocate: the least of those of this process.

    A CPU's devices share what the host has available, within the limit of its container.
    """
    if _UNLIMITED.get():
        return sys.maxsize
    devices = mesh.local_devices
    stats = [device.memory_stats() for device in devices]
    if all(one and "bytes_limit" in one for one in stats):
        return min(one["bytes_limit"] - one["bytes_in_use"] for one in stats)
    return host_free_bytes() // len(devices)


def host_free_bytes() -> int:
    """Bytes of memory that the host can give without swapping."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit = _CGROUP / "memory.max"
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        # Without the page cache, which gives way.
        used = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        free = min(free, int(most) - int(used["anon"]))
    return free
