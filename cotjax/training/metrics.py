"""What a run writes and prints: metrics.jsonl, completions.jsonl and a table of steps.

A metric is named once, here or by the stage, and has the same name in the file, the table and the
report: rates and accuracies are 0–1, `*_s` are seconds, `*_tok_s` tokens per second, `kl` and
`entropy` nats per token.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cotjax.interfaces import Column


class MetricsWriter:
    """Appends lines to a run folder's metrics.jsonl and completions.jsonl.

    A line is written in one piece, so that a reader of a running or killed run meets whole lines.

    Args:
      folder: the run folder, which exists.
      silent: write nothing, as all processes of a run but one do.
      resumed_step: the step of the checkpoint that the run continues from: later lines, and a
        line that was cut off, are dropped, since the run will write them again. A new run gives 0.
    """

    def __init__(self, folder: Path, *, resumed_step: int = 0, silent: bool = False):
        self._metrics = folder / "metrics.jsonl"
        self._completions = folder / "completions.jsonl"
        self._silent = silent
        for path in () if silent else (self._metrics, self._completions):
            _keep_until(path, resumed_step)

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
        numbers = {name: _number(value) for name, value in values.items()}
        _append(self._metrics, [{"step": step, "kind": kind, **numbers}])

    def write_completions(
        self, step: int, kind: str, completions: Iterable[Mapping[str, Any]]
    ) -> None:
        """Appends completions with `step` and `kind` ("train", "before" or "after") in front.

        Args:
          step: training steps done.
          kind: when they were written.
          completions: id, question, gold, completion, reward, parts, tokens, end; of JSON types.
        """
        if self._silent:
            return
        _append(self._completions, [{"step": step, "kind": kind, **row} for row in completions])


def _number(value: Any) -> float | int | None:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with path.open("ab", buffering=0) as file:  # one system call, so no line is half there
        file.write(lines.encode("utf-8", "backslashreplace"))  # half a pair, as JSON has it


def _keep_until(path: Path, step: int) -> None:
    """Drops lines of later steps and a cut-off last line; the file is swapped whole."""
    if not path.exists():
        return
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    kept = [line for line in whole if json.loads(line)["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(b"".join(kept))
    os.replace(temporary, path)


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
        self._line(self._place(step, values), [_cell(column, values) for column in self._columns])

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


def _cell(column: Column, values: Mapping[str, float]) -> str:
    value = float(values.get(column.metric, math.nan))
    return column.form.format(value) if math.isfinite(value) else "-"
