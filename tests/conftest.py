"""Eight CPU devices for every test, fixed before jax is imported, and reproducible examples."""

import atexit
import os
import tempfile

import jaxlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # an installed libtpu would search for a TPU
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a path that is nowhere is not looked up far away
# A test compiles many programs and runs each of them briefly, so they are compiled quickly rather
# than well: the whole core in half the time. What the caller sets comes last and wins.
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jaxlib.version.__version_info__ < (0, 11):  # XLA ends a process that sets a flag it has not
    QUICK += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join(
    (*QUICK, os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8")
)
# One folder of compiled programs for a session: its workers (pytest-xdist) and the processes that
# tests start find it in their environment. It is empty at first, so that every session compiles.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    programs = tempfile.TemporaryDirectory(prefix="cotjax-programs-", ignore_cleanup_errors=True)
    atexit.register(programs.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from cotjax.models import policy  # noqa: E402

# The same examples in every run: a failure that one sees, all see. Compilation makes the first
# example of a shape slow, so there is no deadline.
hypothesis.settings.register_profile("cotjax", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("cotjax")


@pytest.fixture(scope="session", autouse=True)
def caches_in_blocks():
    """The small caches of tests are read block by block, as large ones are."""
    policy.SMALL_CACHE = 0
