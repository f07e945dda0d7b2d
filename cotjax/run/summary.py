"""What a run says at its end: what changed, and before that completions and held-out numbers."""

import json
import pathlib
from typing import Any

from rich.console import Console

from cotjax.errors import visible
from cotjax.report.run_folder import read_run
from cotjax.report.words import changed, what_happened
from cotjax.training.printer import Printer

MOST_LINES = 20  # of a completion that is shown
_NUMBERS = (
    ("accuracy", "greedy", "{:.1%}"),
    ("sampled_accuracy", "sampled", "{:.1%}"),
    ("tokens", "tokens", "{:.1f}"),
    ("sampled_tokens", "sampled tokens", "{:.1f}"),
    ("truncated", "truncated", "{:.1%}"),
)


def say_end(
    printer: Printer, folder: pathlib.Path, report: pathlib.Path, result: dict[str, Any]
) -> None:
    """Says what changed and where everything is; completions and numbers before, where wanted.

    Args:
      printer: of the run.
      folder: of the run, or of the list.
      report: its page.
      result: as result.json has it.
    """

    def details(console: Console) -> None:
        if "stages" in result:
            print_stages(console, result["stages"])
        else:
            print_samples(console, folder)
            print_numbers(console, result["before"], result["after"])
        console.print()
        for sentence in what_happened(read_run(folder)):
            if sentence != moved:
                console.print(visible(sentence))

    moved = changed(result["before"], result["after"])
    more = {"folder": str(folder), "report": str(report)}
    printer.end(result | more, details, moved, f"Everything is in {folder}; open {report}")


def print_samples(console: Console, folder: pathlib.Path) -> None:
    """Two held-out questions, each with its answers before and after."""
    first, last = (_samples(folder, when) for when in ("before", "after"))
    console.print("\nTwo questions, before and after:", style="bold")
    for before in first:
        after = next((row for row in last if row["id"] == before["id"]), None)
        console.print(visible(before["question"]), style="dim")
        _print_answer(console, "before", before)
        if after is not None and after["completion"] == before["completion"]:
            console.print("after: the same", style="cyan")
        elif after is not None:
            _print_answer(console, "after", after)


def _print_answer(console: Console, when: str, row: dict[str, Any]) -> None:
    verdict = "right" if row["parts"]["correct"] else "wrong"
    console.print(f"{when}: {verdict}, {row['tokens']} tokens", style="cyan")
    lines = visible(row["completion"]).rstrip().split("\n")
    more = len(lines) - MOST_LINES
    cut = [f"… {more:,} lines more, in completions.jsonl"] if more > 0 else []
    console.print("\n".join([*lines[:MOST_LINES], *cut]))


def print_numbers(console: Console, before: dict[str, float], after: dict[str, float]) -> None:
    """The held-out numbers of one stage."""
    console.print("\nHeld-out problems".ljust(24) + "before    after", style="bold")
    for name, form in (
        ("accuracy", "{:.1%}"),
        ("sampled_accuracy", "{:.1%}"),
        ("tokens", "{:.1f}"),
        ("well_formed", "{:.1%}"),
        ("truncated", "{:.1%}"),
    ):
        if name in before:
            cells = (form.format(numbers[name]).rjust(8) for numbers in (before, after))
            console.print(f"{name.ljust(21)}" + " ".join(cells))


def print_stages(console: Console, rows: list[dict[str, Any]]) -> None:
    """Held-out numbers of the base and after each stage."""
    shown = [number for number in _NUMBERS if number[0] in rows[0]]
    heads = [title.rjust(max(len(title), 8)) for _, title, _ in shown]
    console.print("\n" + "Held-out problems".ljust(20) + "  ".join(heads), style="bold")
    for row in rows:
        cells = [
            form.format(row[name]).rjust(len(head))
            for (name, _, form), head in zip(shown, heads, strict=True)
        ]
        interval = f"  ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})"
        console.print(row["name"].ljust(20) + "  ".join(cells) + interval)


def _samples(folder: pathlib.Path, when: str) -> list[dict[str, Any]]:
    with (folder / "completions.jsonl").open(encoding="utf-8") as lines:
        rows = (row for row in map(json.loads, lines) if row["kind"] == when)
        return [row for row, _ in zip(rows, range(2), strict=False)]
