"""Trackers beside the run folder: they are told what a run writes, and can never hold it up.

Each tracker has a thread of its own, so that no step waits for a server. One that raises or does
not answer is left out with a warning: metrics.jsonl and completions.jsonl have everything. Names
are those of metrics.jsonl behind the kind of line: `train/loss`, `eval/accuracy`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from cotjax.training.metrics import plain_numbers

WAIT = 20.0  # seconds that the end of a run waits for trackers to take what is left
MOST_WAITING = 10_000  # lines that a tracker may be behind
# Columns of a table of completions; `correct` is one of a row's `parts`.
COLUMNS = ("kind", "id", "question", "gold", "completion", "correct", "reward", "tokens", "end")

Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run before its first number.

    Attributes:
      project: that it belongs to.
      name: of the run, and of its stage in a list.
      group: the list that it is a stage of; empty if it is alone.
      id: a name that no other run has, and that a resumed one keeps; letters and digits.
      folder: of the run.
      config: every setting, nested.
      step: that it goes on from; None if it is new.
    """

    project: str
    name: str
    group: str
    id: str
    folder: pathlib.Path
    config: Mapping[str, Any]
    step: int | None = None


class Tracker(Protocol):
    """One tracker, told of one run; each method may raise."""

    def write(self, step: int, values: Numbers) -> None:
        """Numbers of a step by name."""
        ...

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """A table of an evaluation's completions, in `COLUMNS`."""
        ...

    def keep_report(self, path: pathlib.Path) -> None:
        """The page of the run, which has ended."""
        ...

    def end(self, *, failed: bool) -> None:
        """Nothing follows, until the run is resumed."""
        ...


Open = Callable[[TrackedRun], Tracker]


class Trackers:
    """All trackers of a run.

    Args:
      opens: how each is opened, by its name; may be empty.
      run: what they are told of it.
      warn: prints a line.
      wait: seconds that `close` waits.
    """

    def __init__(
        self,
        opens: Mapping[str, Open],
        run: TrackedRun,
        warn: Callable[[str], None],
        *,
        wait: float = WAIT,
    ) -> None:
        self._opens, self._run, self._warn, self._wait = opens, run, warn, wait
        self._threads: dict[str, _Thread] = {}

    def begin(self, step: int | None) -> None:
        """Opens them; what was told before is of the same run.

        Args:
          step: of the checkpoint that a resumed run goes on from; None for a new run.
        """
        run = dataclasses.replace(self._run, step=step)
        self._threads = {
            name: _Thread(name, functools.partial(own, run)) for name, own in self._opens.items()
        }
        for thread in self._threads.values():
            thread.start()

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """A line of metrics; see `MetricsWriter.write`. What is not finite is left out."""
        plain = plain_numbers(values) if self._threads else {}
        named = {f"{kind}/{name}": one for name, one in plain.items() if one is not None}
        self._tell(lambda tracker: tracker.write(step, named))

    def write_completions(self, step: int, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Completions of an evaluation; those of training steps are left to completions.jsonl."""
        if kind != "train" and self._threads:
            table = [_cells(kind, row) for row in rows]
            self._tell(lambda tracker: tracker.write_completions(step, table))

    def keep_report(self, path: pathlib.Path) -> None:
        """The page of the run, as an artefact."""
        self._tell(lambda tracker: tracker.keep_report(path))

    def close(self, *, failed: bool = False) -> None:
        """Waits until they have taken everything, but not for long."""
        self._tell(lambda tracker: tracker.end(failed=failed))
        until = time.monotonic() + self._wait
        for thread in self._threads.values():
            thread.close()
        for thread in self._threads.values():
            thread.join(max(until - time.monotonic(), 0.0))
        self._look()
        for name, thread in self._threads.items():
            if thread.is_alive():
                self._warn(f"track: {name} has not taken everything within {self._wait:.0f} "
                           "seconds; the run folder has it.")  # fmt: skip
        self._threads = {}

    def _tell(self, job: Callable[[Tracker], None]) -> None:
        for thread in self._threads.values():
            thread.put(job)
        self._look()

    def _look(self) -> None:
        """Says which trackers have failed, and forgets them."""
        for name, thread in list(self._threads.items()):
            if thread.failure:
                del self._threads[name]
                self._warn(f"track: {name} is left out from now on ({thread.failure}). Training "
                           "goes on; metrics.jsonl has everything.")  # fmt: skip


@contextlib.contextmanager
def closing(trackers: Trackers) -> Iterator[Trackers]:
    """Closes trackers at the end, also of a run that fails or is stopped."""
    try:
        yield trackers
    except BaseException:
        trackers.close(failed=True)
        raise
    trackers.close()


class _Thread(threading.Thread):
    """Tells one tracker what is put in, in its order.

    Attributes:
      failure: what the tracker raised, on one line; nothing is told from then on.
    """

    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        super().__init__(name=f"track {name}", daemon=True)
        self._begin, self.failure = begin, ""
        self._jobs: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(MOST_WAITING)

    def put(self, job: Callable[[Tracker], None] | None) -> None:
        """Tells it as soon as it can take it."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.failure = f"it does not answer, and {MOST_WAITING:,} lines wait"

    def close(self) -> None:
        """Ends the thread behind what waits."""
        self.put(None)

    def run(self) -> None:
        """The thread's own."""
        try:
            tracker = self._begin()
            while (job := self._jobs.get()) is not None and not self.failure:
                job(tracker)
        except BaseException as error:  # a library may even exit
            lines = str(error).strip().splitlines()
            self.failure = f"{type(error).__name__}: {lines[0][:200] if lines else 'no more words'}"


def _cells(kind: str, row: Mapping[str, Any]) -> list[Any]:
    correct = row.get("parts", {}).get("correct")
    known = {**row, "kind": kind, "correct": correct}
    known["gold"] = str(row.get("gold", ""))  # a column of one type
    return [known.get(name) for name in COLUMNS]
