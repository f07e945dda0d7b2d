"""Where the time goes from the start of a process to the end of its first step.

`cotjax train --profile-start` prints it: what a run does in order, the time that processors spent
on it, and how much of each part JAX traced, lowered and compiled programs, or read them from its
cache. What JAX did adds up over threads, so it may be more than the part took.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from cotjax.startup import STARTED

# JAX's names of what it measures, and ours.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",  # or read: JAX counts both
    "/jax/compilation_cache/cache_retrieval_time_sec": "read",
}


@dataclass
class Part:
    """A part of a start.

    Attributes:
      name: what was done.
      seconds: that it took.
      cpu: seconds of all processors, of this process.
      programs: seconds of JAX's by what it did with programs, of all threads.
    """

    name: str
    seconds: float
    cpu: float = 0.0
    programs: dict[str, float] = field(default_factory=dict)

    def did(self, what: str) -> float:
        """Seconds of `traced`, `lowered`, `compiled` or `read`, each without the others."""
        of_both = self.programs.get(what, 0.0)
        return max(of_both - self.programs.get("read", 0.0), 0.0) if what == "compiled" else of_both


class StartProfile:
    """The parts so far.

    Args:
      began: when the process started, as `time.monotonic` counts.
    """

    def __init__(self, began: float = STARTED) -> None:
        self.parts: list[Part] = []
        self._last, self._cpu, self._listens, self._over = began, 0.0, False, False
        self._now: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Ends a part."""
        if self._over:
            return
        now, cpu = time.monotonic(), time.process_time()
        self.parts.append(Part(name, now - self._last, cpu - self._cpu, self._now))
        self._last, self._cpu, self._now = now, cpu, {}

    def listen(self) -> None:
        """Counts what JAX does with programs from now on."""
        from jax import monitoring

        if not self._listens:
            self._listens = True
            monitoring.register_event_duration_secs_listener(self._on_duration)

    def end(self) -> None:
        """Nothing after this belongs to the start."""
        if self._listens:
            from jax import monitoring

            monitoring.unregister_event_duration_listener(self._on_duration)
        self._listens, self._over = False, True

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if what := _EVENTS.get(event):
            self._now[what] = self._now.get(what, 0.0) + duration_secs

    def table(self) -> str:
        """The parts, a line each, and their sum."""
        whats = list(_EVENTS.values())
        head = ["from the start to the first step", "seconds", "cpu", *whats]
        rows = [
            [part.name, part.seconds, part.cpu, *(part.did(what) or "" for what in whats)]
            for part in self.parts
        ]
        total = ["together", *(sum(row[column] for row in rows) for column in (1, 2))]
        return "\n".join(map(_line, [head, *rows, total]))


def _line(cells: list[Any]) -> str:
    name, *numbers = cells
    shown = (f"{one:10.2f}" if isinstance(one, float) else f"{one:>10}" for one in numbers)
    return f"{name:34}{''.join(shown)}".rstrip()


_profile: StartProfile | None = None


@contextlib.contextmanager
def profiling(out: TextIO) -> Iterator[StartProfile]:
    """Profiles the start of the run in the block, and prints the table when it ends, however."""
    global _profile
    _profile = StartProfile()
    try:
        yield _profile
    finally:
        _profile.end()
        print(_profile.table(), file=out, flush=True)
        _profile = None


def started(name: str, *, listen: bool = False, last: bool = False) -> None:
    """Says that a part of the start has ended; does nothing where nobody profiles.

    Args:
      name: of the part.
      listen: JAX is there from now on.
      last: it was the last part.
    """
    if _profile is not None:
        _profile.mark(name)
        if listen:
            _profile.listen()
        if last:
            _profile.end()
