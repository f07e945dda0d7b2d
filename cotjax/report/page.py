"""The page: what the run was, before and after, curves, completions, settings."""

import collections
import html
import re
import string
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotjax.errors import visible
from cotjax.report.alarms import alarms
from cotjax.report.buckets import buckets
from cotjax.report.charts import curves
from cotjax.report.run_folder import RunFiles, is_number, read_run
from cotjax.storage import write_whole

PAIRS_SHOWN = 8
LETTERS_SHOWN = 20_000  # of one text; a longer one makes a browser wait
_STYLESHEET = Path(__file__).parents[1] / "assets" / "report.css"


def write_report(folder: Path) -> Path:
    """Writes `folder`/report.html and returns its path.

    Raises:
      InputError: the folder does not exist or holds no file of a run.
    """
    page = folder / "report.html"
    write_whole(page, render(read_run(folder)))
    return page


def render(run: RunFiles) -> str:
    """The whole page as HTML that loads nothing from elsewhere."""
    title = _text(run.name)
    stage = _text(str(run.config.get("stage", "run")))
    facts = "".join(
        f"<div><dt>{_text(label)}</dt><dd>{_text(text)}</dd></div>" for label, text in _facts(run)
    )
    missing = () if "stages" in run.result else run.notes  # a list's files lie in its stages
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in missing)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · cotjax</title><style>{_STYLESHEET.read_text('utf-8')}</style></head>"
        f'<body><p class="quiet">cotjax · {stage}</p><h1>{title}</h1><dl>{facts}</dl>{notes}'
        f"{_stages(run)}{_comparison(run)}{alarms(run)}{buckets(run)}{curves(run)}{_pairs(run)}{_latest(run)}{_settings(run)}"
        "</body></html>\n"
    )


def _settings(run: RunFiles) -> str:
    if not run.config_text:
        return ""
    return (
        "<h2>Settings</h2><details><summary>Every setting of this run, config.toml</summary>"
        f"<pre>{_text(run.config_text)}</pre></details>"
    )


# What the run was.

_DATA = {
    "problems": "built-in problems of {data[min_steps]}–{data[max_steps]} steps",
    "jsonl": "{data[path]}",
    "mixture": "{data[mixture]}",
}


class _Words(string.Formatter):
    """As `str.format`, but a list is its items."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, list):
            return ", ".join(map(str, value))
        if re.search(r"\d{3}", format_spec):  # of a damaged facts.json
            raise ValueError(f"{format_spec}: too wide")
        return super().format_field(value, format_spec)


def _source(run: RunFiles) -> str:
    mixed = run.setting("data", "mixture", str)
    return "mixture" if mixed else run.setting("data", "source", str) or ""


def _facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    """(label, text) for everything that the config and the result say."""
    config, done = run.config, run.last_step()
    budget = run.setting("budget", "tokens", int)
    if "stages" in run.result and "steps" in run.result:  # a list counts those of all its stages
        yield "Steps", f"{run.result['steps']:,}"
    elif isinstance(config.get("steps"), int) and not budget:
        yield "Steps", f"{done:,} of {config['steps']:,}"
    else:  # tokens end it
        yield "Steps", f"{done:,}"
    if budget and "used_tokens" in run.result:
        yield "Tokens", f"{sum(run.result['used_tokens'].values()):,} of {budget:,}"
    if "seconds" in run.result:
        yield "Time", _duration(run.result["seconds"])
    if "programs" in run.result:
        form = "{compiled} compiled, {cached} from the cache, {seconds:.0f} s"
        yield "Programs", form.format_map(collections.defaultdict(int, run.result["programs"]))
    forms = [
        ("Student", "{model[path]}, {model[init]}"),
        ("Data", _DATA.get(_source(run), "{data[source]} {data[path]}")),
        *run.facts,
        ("Optimizer", "AdamW, {optimizer[schedule]}, peak {optimizer[learning_rate]:g}"),
        ("Seed", "{seed}"),
    ]
    for label, form in forms:
        try:
            yield label, _Words().vformat(form, (), config)
        except (LookupError, ValueError, TypeError, AttributeError):
            continue  # no config, one of another version, or a damaged one


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# The stages of a list.


def _stages(run: RunFiles) -> str:
    """A list's held-out numbers, base first; each name leads to its stage's page."""
    stages = run.result.get("stages", [])
    rows = [row for row in ROWS if all(row.key in stage for stage in stages)]
    if not stages:
        return ""
    head = "".join(f"<th>{row.title}</th>" for row in rows)
    body = ""
    for stage in stages:
        name = _text(stage["name"])
        page = urllib.parse.quote(f"{stage['name']}/report.html", errors="replace")
        link = name if stage is stages[0] else f'<a href="{page}">{name}</a>'
        body += f"<tr><td>{link}</td>{''.join(_value(row, stage) for row in rows)}</tr>"
    return f"<h2>Stages</h2><table><tr><th></th>{head}</tr>{body}</table>"


# Before and after.


@dataclass(frozen=True)
class Row:
    """A line of the comparison: how to print value and change, and which way is better."""

    key: str
    title: str
    form: str
    change: Callable[[float, float], str]
    better: int


def _points(before: float, after: float) -> str:
    return f"{100 * (after - before):+.1f} points"


def _percent(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "–"


ROWS = (
    Row("accuracy", "Accuracy, greedy", "{:.1%}", _points, 1),
    Row("sampled_accuracy", "Accuracy, sampled", "{:.1%}", _points, 1),
    Row("pass_at_k", "Any sample right", "{:.1%}", _points, 1),
    Row("tokens", "Mean length, tokens", "{:.1f}", _percent, -1),
    Row("median_tokens", "Median length, tokens", "{:.1f}", _percent, -1),
    Row("correct_tokens", "Mean length when right, tokens", "{:.1f}", _percent, -1),
    Row("sampled_tokens", "Mean length, sampled, tokens", "{:.1f}", _percent, -1),
    Row("truncated", "Cut off at the limit", "{:.1%}", _points, -1),
    Row("well_formed", "Well-formed", "{:.1%}", _points, 1),
)


def _comparison(run: RunFiles) -> str:
    before, after = run.result.get("before", {}), run.result.get("after", {})
    rows = [row for row in ROWS if row.key in before and row.key in after]
    if not rows:
        return ""
    body = "".join(
        f"<tr><td>{row.title}</td>{_value(row, before)}{_value(row, after)}"
        f"{_change(row, before[row.key], after[row.key])}{_span(row, before, after)}</tr>"
        for row in rows
    )
    return (
        '<h2>Before and after</h2><p class="quiet">The same held-out problems, prompt and stop '
        "rule; small numbers are 95% intervals.</p><table><tr><th></th><th>Before</th>"
        f'<th>After</th><th>Change</th><th class="span"></th></tr>{body}</table>'
    )


def _interval(row: Row, values: dict[str, float]) -> list[float]:
    """Low and high end, or nothing."""
    keys = f"{row.key}_low", f"{row.key}_high"
    return [values[key] for key in keys] if all(key in values for key in keys) else []


def _value(row: Row, values: dict[str, float]) -> str:
    ends = " – ".join(map(row.form.format, _interval(row, values)))
    below = f"<small>{ends}</small>" if ends else ""
    return f'<td class="number">{row.form.format(values[row.key])}{below}</td>'


def _change(row: Row, before: float, after: float) -> str:
    gain = row.better * (after - before)
    style = "good" if gain > 0 else "bad" if gain < 0 else ""
    return f'<td class="number {style}">{row.change(before, after).replace("-", "−")}</td>'


def _span(row: Row, before: dict[str, float], after: dict[str, float]) -> str:
    """Both values as bars from 0, with their intervals."""
    shown = [*_interval(row, before), *_interval(row, after), before[row.key], after[row.key]]
    scale = 200 / (1.0 if "%" in row.form else max(*shown, 1e-9))

    def bar(values: dict[str, float], y: int, color: str) -> str:
        width = scale * values[row.key]
        ends = [scale * end for end in _interval(row, values)]
        whisker = f'<path d="M{ends[0]:.1f} {y + 4}H{ends[1]:.1f}"/>' if ends else ""
        return (
            f'<g fill="{color}" stroke="{color}" stroke-width="1.5">{whisker}<rect y="{y}" '
            f'width="{width:.1f}" height="8" fill-opacity="0.35" stroke="none"/></g>'
        )

    return (
        '<td class="span"><svg viewBox="0 0 200 30" aria-hidden="true">'
        '<path d="M0 14.5H200" stroke="var(--line)" stroke-width="29" opacity="0.25"/>'
        f"{bar(before, 5, 'var(--muted)')}{bar(after, 16, 'var(--accent)')}</svg></td>"
    )


# Completions.


def _pairs(run: RunFiles) -> str:
    """The same questions before and after, in the order of the file, so not hand-picked."""
    sides: dict[str, dict[str, dict[str, Any]]] = {"before": {}, "after": {}}
    for line in run.completions:
        if line["kind"] in sides:
            sides[line["kind"]].setdefault(line["id"], line)
    ids = list(sides["before"] | sides["after"])
    if not ids:
        return ""
    cards = "".join(
        _card([(kind.capitalize(), found.get(name)) for kind, found in sides.items()])
        for name in ids[:PAIRS_SHOWN]
    )
    count = f"The first {min(len(ids), PAIRS_SHOWN)} of {len(ids)} questions in completions.jsonl"
    return f'<h2>Completions, before and after</h2><p class="quiet">{count}.</p>{cards}'


def _latest(run: RunFiles) -> str:
    """What the student wrote in the newest training step that kept completions."""
    lines = [line for line in run.completions if line["kind"] == "train"]
    lines = [line for line in lines if line["step"] == lines[-1]["step"]][:PAIRS_SHOWN]
    if not lines:
        return ""
    step = lines[0]["step"]
    cards = "".join(_card([(f"Step {step}", line)]) for line in lines)
    return f"<details><summary>Completions of training step {step}</summary>{cards}</details>"


def _card(sides: list[tuple[str, dict[str, Any] | None]]) -> str:
    line = next(line for _, line in sides if line is not None)
    columns = "".join(_side(label, line) for label, line in sides)
    return (
        f'<div class="pair"><p>{_text(line["question"])} '
        f'<span class="quiet">Gold answer {_text(str(line["gold"]))}.</span></p>'
        f'<div class="sides">{columns}</div></div>'
    )


def _text(text: str) -> str:
    if len(text) > LETTERS_SHOWN:
        more = f"… and {len(text) - LETTERS_SHOWN:,} letters more, which the run folder has"
        text = f"{text[:LETTERS_SHOWN]}\n{more}"
    return html.escape(visible(text))


# Parts that a reward records without adding them up.
_NOT_SUMMED = {"correct", "well_formed", "num_steps", "length", "ratio"}


def _side(label: str, line: dict[str, Any] | None) -> str:
    if line is None:
        return f'<div class="side"><header><b>{label}</b>not written yet</header></div>'
    parts = line.get("parts", {})
    named = {name: part for name, part in parts.items() if is_number(part) and part}
    summed = {name: part for name, part in named.items() if name not in _NOT_SUMMED}
    summands = ", ".join(f"{name} {part:+.2f}" for name, part in summed.items())
    facts = [f"{line['tokens']:,} tokens" + (", cut off" if line.get("end") == "length" else "")]
    if is_number(line.get("reward")):
        facts += [f"reward {line['reward']:+.2f}" + (f" = {summands}" if summands else "")]
    shown = "".join(f"<span>{_text(fact).replace('-', '−')}</span>" for fact in facts)
    if "correct" in parts:
        style, word = ("good", "right") if parts["correct"] else ("bad", "wrong")
        shown = f'<span class="{style}">{word}</span>{shown}'
    return (
        f'<div class="side"><header><b>{label}</b>{shown}</header>'
        f'<div class="text">{_text(line["completion"])}</div></div>'
    )
