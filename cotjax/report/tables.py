"""What a run was, its stages, and its numbers before and after, as tables of the page."""

import collections
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cotjax.config.stages import fact_words
from cotjax.progress import clock
from cotjax.report.embed import text
from cotjax.report.run_folder import RunFiles

# What the run was.

_DATA = {
    "problems": "built-in problems of {data[min_steps]}–{data[max_steps]} steps",
    "jsonl": "{data[path]}",
    "mixture": "{data[mixture]}",
}


def _source(run: RunFiles) -> str:
    mixed = run.setting("data", "mixture", str)
    return "mixture" if mixed else run.setting("data", "source", str) or ""


def facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    """(label, text) for everything that the config and the result say."""
    config, done = run.config, run.last_step()
    budget = run.setting("budget", "tokens", int)
    if "stages" in run.result and "steps" in run.result:  # a list counts those of all its stages
        yield "Steps", f"{run.result['steps']:,}"
    elif isinstance(config.get("steps"), int) and not budget:
        yield "Steps", f"{done:,} of {config['steps']:,}"
    else:  # tokens end it, or it is a list that goes on
        yield "Steps", f"{done + sum(stage.last_step() for stage in run.stages):,}"
    if budget and "used_tokens" in run.result:
        yield "Tokens", f"{sum(run.result['used_tokens'].values()):,} of {budget:,}"
    if "seconds" in run.result:
        yield "Time", clock(run.result["seconds"])
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
            yield label, fact_words(form, config)
        except (LookupError, ValueError, TypeError, AttributeError):
            continue  # no config, one of another version, or a damaged one


# The stages of a list.


def stages(run: RunFiles) -> str:
    """A list's held-out numbers, base first; each name leads to its stage's page."""
    found = run.stage_rows()
    going = {one.name for one in run.stages if "seconds" not in one.result}  # without a page yet
    rows = [row for row in ROWS if all(row.key in stage for stage in found)]
    if not found:
        return ""
    head = "".join(f"<th>{row.title}</th>" for row in rows)
    body = ""
    for stage in found:
        name = text(stage["name"])
        page = urllib.parse.quote(f"{stage['name']}/report.html", errors="replace")
        alone = stage is found[0] or stage["name"] in going
        link = name if alone else f'<a href="{page}">{name}</a>'
        body += f"<tr><td>{link}</td>{''.join(_value(row, stage) for row in rows)}</tr>"
    return (
        '<h2 id="stages">Stages</h2><div class="wide" tabindex="0"><table class="stages">'
        f"<tr><th></th>{head}</tr>{body}</table></div>"
    )


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


def comparison(run: RunFiles) -> str:
    """The held-out numbers before and after, and how they changed; empty without both."""
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
        '<h2 id="before">Before and after</h2><p class="quiet">The same held-out problems, prompt '
        "and stop rule; small numbers are 95% intervals.</p><table><tr><th></th><th>Before</th>"
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
