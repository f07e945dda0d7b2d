"""The table of a policy stage's buckets: how much of each was right, and what it showed."""

from collections.abc import Sequence
from typing import Any

from cotjax.report.run_folder import RunFiles

Line = dict[str, Any]


def buckets(run: RunFiles) -> str:
    """A row per bucket that the run has reached; empty for a run without buckets."""
    needed = ("bucket", "accuracy", "no_signal")
    lines = [line for line in run.metrics if line["kind"] == "train"]
    lines = [line for line in lines if all(line.get(name) is not None for name in needed)]
    if not lines:
        return ""
    masked = any("masked_share" in line for line in lines)
    numbers = sorted({line["bucket"] for line in lines})
    rows = "".join(
        _row(number, [line for line in lines if line["bucket"] == number], masked=masked)
        for number in numbers
    )
    head = ["Bucket", *(["Masked steps"] if masked else []), "Steps", "Right", "Right, begin → end"]
    titles = "".join(f"<th>{title}</th>" for title in [*head, "Groups without signal"])
    return (
        '<h2>Buckets</h2><p class="quiet">Shares of the completions that training sampled; begin '
        f"and end are means of a bucket's first and last quarter.</p><table><tr>{titles}</tr>{rows}"
        "</table>"
    )


def _row(number: int, lines: Sequence[Line], *, masked: bool) -> str:
    right = [line["accuracy"] for line in lines]
    part = -(-len(right) // 4)
    steps = [line["step"] for line in lines]
    cells = [
        f"{number:.0f}",
        *([f"{lines[0].get('masked_share', 0):.0%}"] if masked else []),
        f"{steps[0]:,}–{steps[-1]:,}",
        f"{_mean(right):.1%}",
        f"{_mean(right[:part]):.1%} → {_mean(right[-part:]):.1%}",
        f"{_mean([line['no_signal'] for line in lines]):.0%}",
    ]
    shown = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{shown}</tr>"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
