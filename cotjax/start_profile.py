"""Where the time goes from the start of a process to the end of its first step.

`cotjax train --profile-start` prints it: what a run does in order, and how much of each part JAX
traced, lowered, and compiled or read from the cache of programs. Those seconds add up over threads,
so they may be more than the part took.
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
    "/jax/core/compile/backend_compile_duration": "compiled",
}


@dataclass
class Part:
    """A part of a start.

    Attributes:
      name: what was done.
      seconds: that it took.
      programs: seconds of JAX's by what it did with programs, of all threads.
    """

    name: str
    seconds: float
    programs: dict[str, float] = field(default_factory=dict)


class StartProfile:
    """The parts so far.

    Args:
      began: when the process started, as `time.monotonic` counts.
    """

    def __init__(self, began: float = STARTED) -> None:
        self.parts: list[Part] = []
        self._last, self._listens, self._over = began, False, False
        self._now: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """Ends a part."""
        if self._over:
            return
        now = time.monotonic()
        self.parts.append(Part(name, now - self._last, self._now))
        self._last, self._now = now, {}

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
        head = f"{'from the start to the first step':34}{'seconds':>9}" + "".join(
            f"{what:>10}" for what in whats
        )
        lines = [
            f"{part.name:34}{part.seconds:9.2f}"
            + "".join(
                f"{part.programs[what]:10.2f}" if part.programs.get(what) else " " * 10
                for what in whats
            ).rstrip()
            for part in self.parts
        ]
        total = f"{'together':34}{sum(part.seconds for part in self.parts):9.2f}"
        return "\n".join([head, *lines, total])


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
