"""How a process starts: the clock, memory pages, and compiled programs kept on disk and counted.

And how a worker process ends: with its parent.
"""

import contextlib
import faulthandler
import gc
import importlib.util
import os
import pathlib
import pkgutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cotjax.errors import InputError

if TYPE_CHECKING:
    from cotjax.interfaces import Program

STARTED = time.monotonic()  # before the heavy imports, so that `seconds` is what a person waits

# JAX's own settings. Small programs count too: a run begins with a hundred of them.
_KEEP = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**31),  # bytes; the longest unused go first
}
# What XLA's compiler for a CPU leaves out.
_LEFT_OUT = (
    "xla_cpu_disable_loop_unrolling",
    "xla_cpu_disable_slp_vectorizer",
    "xla_cpu_disable_tiled_emitter",
)
# From how many MiB on a TPU's compiler multiplies with gathered parameters part by part.
_PART_BY_PART = "xla_jf_spmd_threshold_for_windowed_einsum_mib"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


def set_up() -> None:
    """All of the below; where JAX is imported already, as in a notebook, its settings stand."""
    if "jax" not in sys.modules:
        keep_programs()
        compile_soon()
        gather_whole()


# The platforms that a plugin of JAX provides: the start of its module's name, and how to get it.
_PLUGINS = {
    "tpu": ("libtpu", 'pip install "cotjax[tpu]"'),
    "cuda": ("xla_cuda", 'pip install "cotjax[cuda]"'),
    "rocm": ("xla_rocm", "the plugin for ROCm"),
}


def check_platforms() -> None:
    """Refuses a JAX_PLATFORMS that names an accelerator for which JAX has no plugin here.

    Raises:
      InputError: see above.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    for name in filter(None, asked.lower().split(",")):
        wanted = [_PLUGINS[one] for one in (("cuda", "rocm") if name == "gpu" else (name,))
                  if one in _PLUGINS]  # fmt: skip
        if wanted and not any(_has_plugin(module) for module, _ in wanted):
            raise InputError(
                f"JAX_PLATFORMS={asked}: this Python has no {name.upper()} plugin of JAX. Run "
                f"{wanted[0][1]}, or unset JAX_PLATFORMS to compute on what there is."
            )


def has_accelerator(platform: str) -> bool:
    """Whether JAX has a plugin here for tpu, cuda or rocm."""
    return _has_plugin(_PLUGINS[platform][0])


def _has_plugin(module: str) -> bool:
    if module == "libtpu":
        found = importlib.util.find_spec("libtpu") is not None
        return found or "TPU_LIBRARY_PATH" in os.environ
    spec = importlib.util.find_spec("jax_plugins")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return any(one.name.startswith(module) for one in pkgutil.iter_modules(folders))


def compile_soon() -> None:
    """Spares a CPU's compiler what its programs do not gain from; call before JAX is imported.

    Steps of `benchmarks/grpo_step.py --shape=tiny` take as long as before. Flags that
    `XLA_FLAGS` sets already stay.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    # JAX takes an accelerator that it has a plugin for, whose compiler would get these flags too.
    plugins = [] if platforms else [importlib.util.find_spec(n) for n in ("libtpu", "jax_plugins")]
    flags = os.environ.get("XLA_FLAGS", "")
    if platforms in ("", "cpu") and not any(plugins) and "extra_options" not in flags:
        left_out = f"--xla_backend_extra_options={','.join(_LEFT_OUT)}"
        os.environ["XLA_FLAGS"] = f"{flags} {left_out}".strip()


def gather_whole() -> None:
    """Lets a TPU's compiler gather a parameter before its product; call before JAX is imported.

    By itself it multiplies with each device's part as that arrives, and adds the results up in
    float32 in the device's memory: of an update of 3B on v5e:4x4 5.6 times the memory traffic, more
    than its products take (docs/hlo.md). Gathers run beside other products either way. If
    `LIBTPU_INIT_ARGS` is set, also to nothing, it stays: the way out if a libtpu lacks the flag.
    """
    os.environ.setdefault("LIBTPU_INIT_ARGS", f"--{_PART_BY_PART}={2**20}")


def keep_programs() -> None:
    """Lets JAX keep compiled programs in `~/.cache/cotjax/xla`; call before JAX is imported.

    Settings of JAX's own stay: `JAX_COMPILATION_CACHE_DIR` names another folder, and if it
    is empty, nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = caches / "cotjax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home to write to: every run compiles its own
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    for name, value in _KEEP.items():
        os.environ.setdefault(name, value)


_collects_later = False


def collect_later() -> None:
    """Puts off Python's search for cycles that nothing uses until `collect_again`.

    For a command, before the heavy imports: what a module makes stays, but searches are due by the
    number of objects. Of the tiny student's start and first step, 9.5 seconds of one processor
    with a full cache of programs, they took more than half a second.
    """
    global _collects_later
    _collects_later = gc.isenabled()
    gc.disable()


def collect_again() -> None:
    """Ends `collect_later`, if it was called; what there is now is left out of every search."""
    global _collects_later
    if _collects_later:
        _collects_later = False
        gc.freeze()
        gc.enable()


@dataclass
class Programs:
    """Programs that JAX compiled or loaded.

    Attributes:
      compiled: programs that were compiled.
      cached: programs that came from the cache on disk.
      seconds: that both took; those of several threads add up.
      names: how many of each function were asked for.
    """

    compiled: int = 0
    cached: int = 0
    seconds: float = 0.0
    names: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.compiled} compiled, {self.cached} from the cache, {self.seconds:.1f} s"


@contextlib.contextmanager
def counted() -> Iterator[Programs]:
    """Counts the programs of a block, which is done with them when it ends."""
    from jax import monitoring

    programs, lock = Programs(), threading.Lock()

    def on_duration(event: str, duration_secs: float, **about: Any) -> None:
        if event == _COMPILED:  # asked for: compiled, or read from the disk
            name = about["fun_name"].removeprefix("jit(").removesuffix(")")
            with lock:
                programs.compiled += 1
                programs.seconds += duration_secs
                programs.names[name] = programs.names.get(name, 0) + 1

    def on_event(event: str, **_: Any) -> None:
        if event == _FROM_CACHE:
            with lock:
                programs.cached += 1
                programs.compiled -= 1

    monitoring.register_event_duration_secs_listener(on_duration)
    monitoring.register_event_listener(on_event)
    try:
        yield programs
    finally:
        monitoring.unregister_event_duration_listener(on_duration)
        monitoring.unregister_event_listener(on_event)


@contextlib.contextmanager
def compiling_side_by_side(programs: "Iterable[Program]") -> Iterator[None]:
    """Compiles what every run needs of some programs, in threads, while the block runs.

    A call that needs a program on its way waits for it, and compiles nothing again. Says how many
    are compiled.

    Raises:
      Exception: what a program raised, when the block ends; a block that raises is not waited for.
    """
    needed = [program for program in programs if program.always]
    if not needed:
        yield
        return
    from cotjax.progress import Progress  # here: a broken environment is told without rich

    threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compile")
    waiting = [threads.submit(_compile, program) for program in needed]
    try:
        with Progress("compiling", len(needed), "programs") as progress:
            for future in waiting:
                future.add_done_callback(lambda _: progress.advance())
            yield
        for future in waiting:
            future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def compile_together(programs: "Iterable[Program]") -> None:
    """Compiles programs in threads, and ends when they are all compiled.

    Raises:
      Exception: what a program raised.
    """
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="compile") as threads:
        for waiting in [threads.submit(_compile, program) for program in programs]:
            waiting.result()


def _compile(program: "Program") -> None:
    program.function.lower(*program.args, **program.kwargs).compile()


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


def end_with_parent(parent: int) -> None:
    """Lets this process, a worker, end within a second or two of its parent, however that ends.

    A parent that is killed ends no worker itself, and one that waits for it would wait for ever.
    Signals that a terminal (Ctrl-C) or a scheduler sends to the parent's whole group no longer
    reach the worker: a run that finishes its step needs it.

    Args:
      parent: the process that started this one; it may be gone already.
    """
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):  # it leads a group of its own
            os.setsid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_when_stuck(seconds: float) -> None:
    """Lets this process, a worker, end if no thread of it has had a turn for so long.

    A regular expression, or a product of large numbers, gives none to the thread of
    `end_with_parent`. The time to give is a little more than the limit of a call.

    Args:
      seconds: that a call may keep all others waiting.
    """
    seconds = min(seconds, 1e6)  # the clock takes no longer times
    nowhere = open(os.devnull, "w", encoding="ascii")

    def watch() -> None:
        while True:
            with contextlib.suppress(RuntimeError, MemoryError):  # no memory for its thread now
                faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            time.sleep(min(1.0, seconds / 4))

    threading.Thread(target=watch, name="turns", daemon=True).start()
