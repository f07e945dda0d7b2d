"""The table of a policy stage's buckets: how much of each was right, and what it showed."""

from collections.abc import Sequence
from typing import Any

from cotjax.report.run_folder import RunFiles, is_number

Line = dict[str, Any]


def buckets(run: RunFiles) -> str:
    """A row per bucket that the run has reached; empty for a run without buckets."""
    needed = ("bucket", "accuracy", "no_signal")
    lines = run.lines("train", *needed)
    if not lines:
        return ""
    masked = any(is_number(line.get("masked_share")) for line in lines)
    numbers = sorted({line["bucket"] for line in lines})
    rows = "".join(
        _row(number, [line for line in lines if line["bucket"] == number], masked=masked)
        for number in numbers
    )
    head = ["Bucket", *(["Masked steps"] if masked else []), "Steps", "Right", "Right, begin → end"]
    titles = "".join(f"<th>{title}</th>" for title in [*head, "Groups without signal"])
    return (
        '<h2>Buckets</h2><p class="quiet">Shares of the completions that training sampled; begin '
        f'and end are means of a bucket\'s first and last quarter.</p><div class="wide" '
        f'tabindex="0"><table><tr>{titles}</tr>{rows}</table></div>'
    )


def _row(number: int, lines: Sequence[Line], *, masked: bool) -> str:
    right = [line["accuracy"] for line in lines]
    part = -(-len(right) // 4)
    steps = [line["step"] for line in lines]
    cells = [
        f"{number:.0f}",
        *([f"{_first(lines, 'masked_share'):.0%}"] if masked else []),
        f"{steps[0]:,}–{steps[-1]:,}",
        f"{_mean(right):.1%}",
        f"{_mean(right[:part]):.1%} → {_mean(right[-part:]):.1%}",
        f"{_mean([line['no_signal'] for line in lines]):.0%}",
    ]
    shown = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{shown}</tr>"


def _first(lines: Sequence[Line], name: str) -> float:
    """The first line's value; 0 if it has none."""
    value = lines[0].get(name)
    return value if is_number(value) else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
