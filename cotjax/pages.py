"""Large memory pages for computing on a Linux CPU."""

import os
import sys

# XLA takes and returns large blocks in every call. By default each comes as fresh 4 KiB pages,
# which the kernel clears one fault at a time; these settings of glibc's malloc make them 2 MiB
# pages and keep them in the process. Two arenas: with one, small blocks that outlive a step come to
# lie between the large ones, whose gaps then fit nothing, and a run's memory grows step by step;
# keeping more small blocks per thread (tcache_count) does the same, and faster. The largest blocks
# go back each time, or a small one that took a corner of their gap doubles them.
_MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_ARENA_MAX": "2",
}


def use_large_pages() -> None:
    """Starts this process anew with large pages; once, on Linux, unless malloc is configured.

    malloc reads its settings when a process starts, so call this first of all. Measured on two
    cores, one after the other: 30 steps of `benchmarks/distill_step.py` take 1.9 s each, and 12 s
    of the kernel's time in all; with large pages but malloc's own thresholds and arenas 2.2 and
    22 s. Memory stays at 1.8 GiB either way; with one arena it reached 5.7. Giving back what has
    256 MiB and more changed no step's time there, and spares 0.5 GiB in four processes of nine.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in _MALLOC):
        os.environ.update(_MALLOC)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
