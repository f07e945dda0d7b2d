"""Settings and environment of runs on the page, and how a step is taken again."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from cotjax.report.embed import text
from cotjax.report.run_folder import RunFiles

_PLACES = {"name", "output", "resume"}  # settings that say where, not what
_MOST = 60  # differing settings
_LETTERS = 200  # of a value in a table


def settings(runs: Sequence[RunFiles]) -> str:
    """Every setting of each run, folded; of several runs first those that differ."""
    folded = "".join(
        f"<details><summary>Every setting{_of(run, runs)}, config.toml</summary>"
        f'<pre tabindex="0">{text(run.config_text)}</pre></details>'
        for run in runs
        if run.config_text
    )
    differing = _differing(runs) if len(runs) > 1 else ""
    return f'<h2 id="settings">Settings</h2>{differing}{folded}' if folded or differing else ""


def _of(run: RunFiles, runs: Sequence[RunFiles]) -> str:
    return f" of {text(run.name)}" if len(runs) > 1 else " of this run"


def _differing(runs: Sequence[RunFiles]) -> str:
    """A table of the settings in which runs of one stage differ; a list has those of its stages."""
    runs = [run for run in runs if not run.stages]
    if len(runs) < 2:
        return ""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one if key not in _PLACES)
    rows = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    if not rows:
        return '<p class="quiet">All settings are equal.</p>'
    head = "".join(f"<th>{text(run.name)}</th>" for run in runs)
    body = "".join(
        f"<tr><td><code>{text(key)}</code></td>"
        + "".join(f"<td>{_value(one, key)}</td>" for one in flat)
        + "</tr>"
        for key in rows[:_MOST]
    )
    more = f" The first {_MOST} of {len(rows)}." if len(rows) > _MOST else ""
    return (
        f'<p class="quiet">What differs between the runs.{more}</p><div class="wide" tabindex="0">'
        f'<table class="words"><tr><th>Setting</th>{head}</tr>{body}</table></div>'
    )


def _flat(table: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _value(table: dict[str, Any], key: str) -> str:
    if key not in table:
        return '<span class="quiet">–</span>'
    shown = str(table[key])
    if key == "started":  # 2026-11-30T02:28:26.397+00:00
        shown = shown[:16].replace("T", " ")
    return text(shown if len(shown) <= _LETTERS else f"{shown[:_LETTERS]}…")


_COLUMNS = (
    ("started", "Started"),
    ("version", "cotjax"),
    ("commit", "Commit"),
    ("jax", "JAX"),
    ("python", "Python"),
    ("machine", "Machine"),
    ("xla_flags", "XLA flags"),
)


def environment(runs: Sequence[RunFiles]) -> str:
    """With which code and devices each part of each run was made."""
    rows = [(run, part) for run in runs for part in run.parts[:20]]
    shown = [(key, title) for key, title in _COLUMNS if any(key in part for _, part in rows)]
    if not shown:
        return ""
    named = len(runs) > 1
    head = ("<th>Run</th>" if named else "") + "".join(f"<th>{title}</th>" for _, title in shown)
    body = "".join(
        "<tr>"
        + (f"<td>{text(run.name)}</td>" if named else "")
        + "".join(f"<td>{_value(part, key)}</td>" for key, _ in shown)
        + "</tr>"
        for run, part in rows
    )
    return (
        '<h2 id="environment">Environment</h2><p class="quiet">A line for each start of a run; a '
        'resumed one has several.</p><div class="wide" tabindex="0">'
        f'<table class="words"><tr>{head}</tr>{body}</table></div>'
    )


def replay_commands(run: RunFiles) -> dict[str, str]:
    """What takes a step of a run again, by stage of a list; `N` stands for the step."""
    return {
        (part.name if run.stages else ""): f"cotjax replay {shlex.quote(part.path)} --step N"
        for part in (run.stages or [run])
    }


def replay(runs: Sequence[RunFiles]) -> str:
    """A form that writes the command for any step."""
    options = [
        (number, name, " · ".join(filter(None, (run.name if len(runs) > 1 else "", name))), part)
        for number, run in enumerate(runs)
        for part, name in zip(run.stages or [run], replay_commands(run), strict=False)
        if part.last_step()
    ]
    if not options:
        return ""
    choices = "".join(
        f'<option data-run="{number}" data-stage="{text(name)}" data-last="{part.last_step()}">'
        f"{text(label or run_label)}</option>"
        for number, name, label, part in options
        for run_label in (part.name,)
    )
    hidden = " hidden" if len(options) == 1 else ""
    return (
        '<h2 id="replay">Take a step again</h2><p class="quiet">From the newest checkpoint before '
        "it; says what is equal to what the run wrote, bit for bit.</p>"
        f'<div class="controls" id="replay-form"><label{hidden}>Run <select id="replay-run">'
        f'{choices}</select></label><label>Step <input id="replay-step" type="number" min="1" '
        'value="1"></label><code id="replay-command"></code>'
        '<button type="button" data-copy="replay-command">Copy</button></div>'
    )
