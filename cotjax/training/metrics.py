"""What a run writes and prints: metrics, completions, digests, alarms (.jsonl), a table of steps.

A metric is named once, here or by the stage, and has the same name in the file, the table and the
report: rates and accuracies are 0–1, `*_s` are seconds, `*_tok_s` tokens per second, `kl` and
`entropy` nats per token.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from cotjax.interfaces import Column, Step
from cotjax.storage import append_whole, rows_of, whole_rows, write_whole
from cotjax.training.digests import digests

ALARMS = "alarms.jsonl"  # of a run folder: step, name and words of each alarm


class Mirror(Protocol):
    """Who else is told what is written; see `cotjax.training.trackers.Trackers`."""

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """A line of metrics."""
        ...

    def write_completions(self, step: int, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Lines of completions."""
        ...


class MetricsWriter:
    """Appends lines to a run folder's metrics, completions, digests and alarms (.jsonl).

    A line is written in one piece, so that a reader of a running or killed run meets whole lines.

    Args:
      folder: the run folder, which exists.
      silent: write nothing, as all processes of a run but one do.
      resumed_step: the step of the checkpoint that the run continues from: later lines are
        dropped, since the run will write them again, and so are lines that were cut or damaged.
        A new run gives 0.
      also: is told each line of metrics and completions behind the file; None: nobody is.

    Attributes:
      repairs: sentences about lines up to that step that are lost.

    Raises:
      InputError: a file cannot be written, as on a full disk; so does each method.
    """

    def __init__(
        self,
        folder: Path,
        *,
        resumed_step: int = 0,
        silent: bool = False,
        also: Mirror | None = None,
    ):
        self.repairs: list[str] = []
        self._also = also
        self._metrics = folder / "metrics.jsonl"
        self._completions = folder / "completions.jsonl"
        self._digests, self._alarms = folder / "digests.jsonl", folder / ALARMS
        self._silent = silent
        files = self._metrics, self._completions, self._digests, self._alarms
        for path in () if silent else files:
            self.repairs += _repaired(path, resumed_step)
        if resumed_step and not silent:
            self.repairs += _missing_steps(self._metrics, resumed_step)

    def write(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Appends one line of metrics.

        Args:
          step: training steps done, 0 before the first.
          kind: "train" or "eval".
          values: numbers or scalar arrays by name. NaN and infinities become null, for JSON has
            neither.
        """
        if self._silent:
            return
        _append(self._metrics, [metrics_line(step, kind, values)])
        if self._also:
            self._also.write(step, kind, values)

    def insert_evaluations(self, found: Mapping[int, Mapping[str, Any]]) -> None:
        """Writes evaluations again that metrics.jsonl has lost, each behind its step.

        Args:
          found: numbers by step, as a checkpoint has them.
        """
        rows = [] if self._silent else rows_of(self._metrics)
        there = {row["step"] for row in rows if row["kind"] == "eval"}
        lost = [step for step in found if step not in there]
        if self._silent or not lost:
            return
        rows += [{"step": step, "kind": "eval", **found[step]} for step in lost]
        rows.sort(key=lambda row: (row["step"], row["kind"] == "eval"))
        write_whole(self._metrics, _lines(rows))

    def write_completions(
        self, step: int, kind: str, completions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Appends completions with `step` and `kind` in front.

        Args:
          step: training steps done.
          kind: "train"; of an evaluation "before", "after", or "eval" in the middle of the run.
          completions: id, question, gold, completion, reward, parts, tokens, end; of JSON types.
        """
        if self._silent:
            return
        rows = [*completions]
        _append(self._completions, [{"step": step, "kind": kind, **row} for row in rows])
        if self._also:
            self._also.write_completions(step, kind, rows)

    def write_alarm(self, step: int, name: str, says: str) -> None:
        """Appends what a guard or a detector says of a step to alarms.jsonl."""
        if not self._silent:
            _append(self._alarms, [alarm_line(step, name, says)])

    def name_end(self, step: int | None) -> None:
        """Says which evaluation's completions are the run's last, now that it is known.

        Args:
          step: of the evaluation that is; None: none yet, as an ended run goes on.
        """
        rows = [] if self._silent else rows_of(self._completions)
        kinds = [row["kind"] for row in rows]
        for row in rows:
            if row["kind"] in ("eval", "after") and row["step"]:
                row["kind"] = "after" if row["step"] == step else "eval"
        if kinds != [row["kind"] for row in rows]:
            write_whole(self._completions, _lines(rows))

    def write_digests(self, step: int, work: Step) -> dict[str, Any]:
        """Appends the digests of what a step took, see `cotjax.training.digests`, and gives them.

        Args:
          step: training steps done.
          work: what the stage gave for the last one.
        """
        if self._silent:
            return {}
        found = digests(work)
        _append(self._digests, [{"step": step, "kind": "train", **found}])
        return found


def metrics_line(step: int, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl; see `MetricsWriter.write`."""
    return {"step": step, "kind": kind, **plain_numbers(values)}


def alarm_line(step: int, name: str, says: str) -> dict[str, Any]:
    """A line of alarms.jsonl."""
    return {"step": step, "kind": "alarm", "name": name, "says": says}


def plain_numbers(values: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Metrics as metrics.jsonl has them."""
    return {name: plain_number(value) for name, value in values.items()}


def plain_number(value: Any) -> float | int | None:
    """A number or scalar array as JSON has it: NaN and infinities are None."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    append_whole(path, _lines(records))


def _lines(records: Iterable[Mapping[str, Any]]) -> str:
    # Half a pair of a character stands as JSON has it.
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _repaired(path: Path, step: int) -> list[str]:
    """Drops lines of later steps, and damaged ones; the file is swapped whole.

    Returns:
      a sentence if lines in the middle were damaged; the last one is what a kill cuts off.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = list(whole_rows(data))
    kept = b"".join(line for line, row in whole if row["step"] <= step)
    if kept != data:
        write_whole(path, kept)
    damaged = data.count(b"\n") - len(whole)
    if not damaged:
        return []
    lines = "1 line was" if damaged == 1 else f"{damaged} lines were"
    return [f"{path}: {lines} damaged and {'is' if damaged == 1 else 'are'} left out."]


def _missing_steps(path: Path, step: int) -> list[str]:
    there = {row["step"] for row in rows_of(path) if row["kind"] == "train"}
    missing = [one for one in range(1, step + 1) if one not in there]
    if not missing:
        return []
    shown = f"step {missing[0]}" if len(missing) == 1 else f"{len(missing)} of {step} steps"
    return [f"{path}: lacks {shown} that were taken; the curves have a gap there."]


def wilson_interval(successes: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share, which stays within [0, 1] even at its ends.

        (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n),   p = successes / n

    Args:
      successes: how many of the trials succeeded.
      total: n, independent trials; 0 gives (0, 1), for nothing is known.
      z: standard normal quantile; 1.96 for 95 %.

    Returns:
      low and high, 0–1.

    Example:
      >>> [round(end, 4) for end in wilson_interval(81, 263)]
      [0.2553, 0.3662]

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209–212; the example is from Newcombe 1998,
    Statistics in Medicine 17:857–872, table I (81 of 263).
    """
    if total == 0:
        return 0.0, 1.0
    share, unit = successes / total, z * z / total
    middle = share + unit / 2
    reach = math.sqrt(share * (1 - share) * unit + unit * unit / 4)
    scale = 1 + unit
    return max((middle - reach) / scale, 0.0), min((middle + reach) / scale, 1.0)


SPEED = Column("step", "s", "step_s", "{:.2f}", 6)  # the last column of every stage


class StepTable:
    """Prints a header and one line a step; plain text wherever the output is not a terminal.

    Args:
      columns: what to show, from left to right.
      steps: total steps of the run.
      console: where to print.
      budget: tokens that end the run, of which a line tells the share; 0 = steps end it.
    """

    HEADER_EVERY = 40  # lines, so that a header stays on the screen

    def __init__(
        self,
        columns: Iterable[Column],
        steps: int,
        console: Console | None = None,
        *,
        budget: int = 0,
    ):
        self._columns = tuple(columns)
        self._steps, self._budget = steps, budget
        self._console = Console(highlight=False) if console is None else console
        self._printed = 0

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Prints one step; a metric that is missing or not finite shows as "-"."""
        if self._printed % self.HEADER_EVERY == 0:
            self._line("step", [column.title for column in self._columns], "bold")
            self._line("", [column.unit for column in self._columns], "dim")
        self._printed += 1
        self._line(self._place(step, values), [cell(column, values) for column in self._columns])

    def _place(self, step: int, values: Mapping[str, float]) -> str:
        """The step, and of how many; or how much of the run's tokens is used up to it."""
        if not self._budget:
            return f"{step}/{self._steps}"
        share = max(step / self._steps, values.get("used_tokens", 0.0) / self._budget)
        return f"{step}, {share:.0%}"

    def _line(self, first: str, cells: list[str], style: str = "") -> None:
        width = len("1234, 100%") if self._budget else 2 * len(str(self._steps)) + 1
        padded = [first.rjust(max(width, len("step")))]
        padded += [
            cell.rjust(column.width) for cell, column in zip(cells, self._columns, strict=True)
        ]
        self._console.print(Text("  ".join(padded).rstrip(), style=style), soft_wrap=True)


def cell(column: Column, values: Mapping[str, float]) -> str:
    """A metric as its column prints it; "-" if it is missing or not finite."""
    value = float(values.get(column.metric, math.nan))
    return column.form.format(value) if math.isfinite(value) else "-"
