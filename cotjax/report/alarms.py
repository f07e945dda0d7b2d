"""What guards and detectors said of a run, each once."""

import html
from typing import Any

from cotjax.errors import visible
from cotjax.report.run_folder import RunFiles

LETTERS = 600  # of one sentence


def alarms(run: RunFiles, *, heading: bool = True) -> str:
    """HTML of a list: which alarm, at which steps, and its newest words; empty without any."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in run.alarms:
        found.setdefault(row["name"], []).append(row)
    if not found:
        return ""
    items = "".join(
        f'<li><b>{_text(name)}</b> <span class="quiet">{_when(rows)}</span><br>'
        f"{_text(rows[-1]['says'])}</li>"
        for name, rows in found.items()
    )
    title = '<h2 id="findings">What to look at</h2>' if heading else ""
    return f'{title}<ul class="alarms">{items}</ul>'


def _when(rows: list[dict[str, Any]]) -> str:
    steps = sorted({row["step"] for row in rows})
    if len(steps) == 1:
        return f"at step {steps[0]:,}"
    return f"at {len(steps):,} steps, from {steps[0]:,} to {steps[-1]:,}"


def _text(text: str) -> str:
    return html.escape(visible(text if len(text) <= LETTERS else f"{text[:LETTERS]}…"))
