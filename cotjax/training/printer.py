"""What a run says while it goes on: plain lines, little of them, or JSON; `live` is for terminals.

A printer is told what happens and chooses how to say it. Errors are no matter of its: whoever
starts the run prints them.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console

from cotjax.errors import visible
from cotjax.interfaces import Column
from cotjax.progress import sharing
from cotjax.training.metrics import StepTable, alarm_line, metrics_line

Show = Callable[[Console], None]  # prints something that is only wanted by some printers


class Printer:
    """Says everything in plain lines, as a log has it; wide ones are not broken.

    Args:
      console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._table: StepTable | None = None

    def summary(self, show: Show, about: Mapping[str, Any]) -> None:
        """What the run is about to do.

        Args:
          show: prints it.
          about: the same for programs, as JSON takes it.
        """
        del about
        show(self.console)

    def heading(self, text: str, *, quiet: bool = False) -> None:
        """Begins a stage of a list; a quiet one is of a stage that has ended."""
        self.console.print(visible(text), style="dim" if quiet else "bold")

    def note(self, text: str) -> None:
        """What a reader of the run should know."""
        self.console.print(visible(text))

    def warn(self, text: str) -> None:
        """What a person should look at."""
        self.console.print(visible(text), style="yellow")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The whole run."""
        yield

    @contextlib.contextmanager
    def stage(self, name: str = "") -> Iterator[None]:
        """A stage, from its opening to its last evaluation; the name is of one in a list."""
        del name
        self._table = None
        yield

    def columns(self, columns: Sequence[Column], steps: int, *, budget: int = 0) -> None:
        """What a step shows; see `StepTable`."""
        self._table = StepTable(columns, steps, self.console, budget=budget)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A step was taken; its metrics."""
        if self._table is not None:
            self._table.add(step, values)

    def evaluation(
        self, step: int, when: str, numbers: Mapping[str, Any], *, new: bool = True
    ) -> None:
        """The student was evaluated.

        Args:
          step: training steps done.
          when: `before`, `after`, or `eval` in the middle of the run.
          numbers: of the evaluation.
          new: whether it was made now; a resumed run knows those of its earlier parts.
        """
        del new
        label = f"step {step}" if when == "eval" else when
        self.console.print(visible(_sentence(label, numbers)))

    def alarm(self, step: int, name: str, says: str) -> None:
        """A guard or a detector found something."""
        self.warn(f"step {step}, {name}: {says}")

    def end(self, result: Mapping[str, Any], details: Show, changed: str, where: str) -> None:
        """The run has ended.

        Args:
          result: as result.json has it, with `folder` and `report`.
          details: prints completions and numbers.
          changed: what changed, in a sentence.
          where: everything is, in another.
        """
        details(self.console)
        self.console.print()
        self.console.print(visible(f"{changed} {where}"), style="bold")


class QuietPrinter(Printer):
    """Says what went wrong or may go wrong, and the last line."""

    def summary(self, show: Show, about: Mapping[str, Any]) -> None:
        """Nothing."""

    def heading(self, text: str, *, quiet: bool = False) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Says nothing of how far anything is."""
        with sharing(None):
            yield

    def columns(self, columns: Sequence[Column], steps: int, *, budget: int = 0) -> None:
        """Nothing."""

    def evaluation(
        self, step: int, when: str, numbers: Mapping[str, Any], *, new: bool = True
    ) -> None:
        """Nothing."""

    def end(self, result: Mapping[str, Any], details: Show, changed: str, where: str) -> None:
        """The last line."""
        self.console.print(visible(f"{changed} {where}"))


class JsonPrinter(Printer):
    """Writes one JSON object a line, and nothing else; notes and warnings go to standard error.

        {"event": "start", …}   what the run is about to do; one of a list has its stages
        {"event": "step", …}    a line of metrics.jsonl of kind "train"
        {"event": "eval", …}    one of kind "eval"
        {"event": "alarm", …}   a line of alarms.jsonl
        {"event": "end", …}     result.json with folder and report; or the error

    Args:
      stream: where to; None is the standard output as it is now.
      errors: where notes and warnings go.
    """

    def __init__(self, stream: TextIO | None = None, errors: Console | None = None) -> None:
        super().__init__(
            errors or Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        )
        self._stream = sys.stdout if stream is None else stream
        self._stage = ""

    def _write(self, event: str, values: Mapping[str, Any]) -> None:
        stage = {"in": self._stage} if self._stage else {}
        self._stream.write(json.dumps({"event": event, **stage, **values}) + "\n")
        self._stream.flush()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The whole run; what others print goes to the standard error, and an error is an event."""
        with contextlib.redirect_stdout(sys.stderr), _alone(self._stream) as self._stream:
            try:
                yield
            except BaseException as error:
                told = " ".join([str(error), *getattr(error, "__notes__", [])])
                self._write("end", {"error": told or type(error).__name__})
                raise

    @contextlib.contextmanager
    def stage(self, name: str = "") -> Iterator[None]:
        """Events of a stage in a list have its name under `in`."""
        self._stage = name
        yield
        self._stage = ""

    def summary(self, show: Show, about: Mapping[str, Any]) -> None:
        """The event `start`."""
        self._write("start", about)

    def heading(self, text: str, *, quiet: bool = False) -> None:
        """A line on the standard error."""
        self.console.print(visible(text))

    def columns(self, columns: Sequence[Column], steps: int, *, budget: int = 0) -> None:
        """Nothing."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """The event `step`."""
        self._write("step", metrics_line(step, "train", values))

    def evaluation(
        self, step: int, when: str, numbers: Mapping[str, Any], *, new: bool = True
    ) -> None:
        """The event `eval`; none for what an earlier part of the run has measured."""
        if new:
            self._write("eval", metrics_line(step, "eval", numbers))

    def alarm(self, step: int, name: str, says: str) -> None:
        """The event `alarm`."""
        self._write("alarm", alarm_line(step, name, says))

    def end(self, result: Mapping[str, Any], details: Show, changed: str, where: str) -> None:
        """The event `end`."""
        self._write("end", {"says": changed, **result})


@contextlib.contextmanager
def _alone(stream: TextIO) -> Iterator[TextIO]:
    """The standard output to whoever holds it; child processes and libraries get standard error."""
    try:
        number = stream.fileno()
    except (AttributeError, OSError):  # of a text in memory
        number = -1
    if number != 1:
        yield stream
        return
    stream.flush()
    own = os.dup(number)
    os.dup2(2, number)
    try:
        with open(os.dup(own), "w", encoding="utf-8") as file:
            yield file
    finally:
        os.dup2(own, number)
        os.close(own)


def _sentence(label: str, numbers: Mapping[str, Any]) -> str:
    words = (
        f"{label}: accuracy {numbers['accuracy']:.1%} "
        f"({numbers['accuracy_low']:.1%} to {numbers['accuracy_high']:.1%})"
    )
    if "sampled_accuracy" in numbers:
        words += f", sampled {numbers['sampled_accuracy']:.1%}"
    if "solve_loss" in numbers:
        words += f", loss {numbers['solve_loss']:.3f}"
    return words + f", {numbers['tokens']:.1f} tokens, on {numbers['problems']} held-out problems"
