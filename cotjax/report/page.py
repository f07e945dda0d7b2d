"""The page of one run or of several: one file of HTML that loads nothing from elsewhere.

words (what happened) → findings → before and after → completions → curves → settings. Model text
reaches the page escaped, or as JSON that its scripts show as text; it is never HTML there.
"""

from collections.abc import Sequence
from pathlib import Path

from cotjax.errors import visible
from cotjax.report.alarms import alarms
from cotjax.report.buckets import buckets
from cotjax.report.charts import Figure, accuracy_against_length, figures, width
from cotjax.report.completions import completions_data
from cotjax.report.embed import asset, data_block, text
from cotjax.report.run_folder import RunFiles, read_run
from cotjax.report.settings import environment, replay, replay_commands, settings
from cotjax.report.several import named_apart, paired_tests
from cotjax.report.tables import comparison, facts, stages
from cotjax.report.words import what_happened
from cotjax.storage import write_whole

MOST_RUNS = 6  # that colours tell apart
# What a browser lets the page do: nothing over a network. Vega-Lite compiles its expressions.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'"


def write_report(folder: Path, *, refresh: int = 0) -> Path:
    """Writes `folder`/report.html and returns its path.

    Args:
      folder: of a run.
      refresh: seconds after which an open page looks again; 0: never.

    Raises:
      InputError: the folder does not exist or holds no file of a run.
    """
    page = folder / "report.html"
    write_whole(page, render(read_run(folder), refresh=refresh))
    return page


def write_comparison(folders: Sequence[Path], page: Path, *, refresh: int = 0) -> Path:
    """Writes one page of several runs, and returns its path.

    Raises:
      InputError: see `write_report`.
    """
    write_whole(page, render(*map(read_run, folders), refresh=refresh))
    return page


def render(*runs: RunFiles, refresh: int = 0) -> str:
    """The whole page.

    Args:
      runs: at least one.
      refresh: seconds after which an open page looks again; 0: never.
    """
    runs = tuple(named_apart(runs))
    title = " · ".join(run.name for run in runs)
    charts: list[Figure] = []
    head, body = (_one if len(runs) == 1 else _several)(runs, charts)
    body += _completions(runs) + _curves(runs, charts)
    body += settings(runs) + environment(runs) + replay(runs)
    data = {
        "charts": [chart.data for chart in charts],
        "runs": [{"name": visible(run.name), "replay": replay_commands(run)} for run in runs],
        "mask": sorted({mask for run in runs if (mask := run.setting("mask", "token", str))}),
        "refresh": refresh,
        **completions_data(runs),
    }
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{text(title)} · cotjax</title><style>{asset('page.css')}</style></head><body>"
        f'<a class="skip" href="#completions">To the completions</a>{head}{_contents(body)}{body}'
        f"{data_block('data', data)}{''.join(map(_script, _scripts(charts)))}</body></html>\n"
    )


def _scripts(charts: Sequence[Figure]) -> list[str]:
    """The page's scripts; Vega, the heaviest, only where there is something to draw."""
    drawn = ["vega.js", "charts.js"] if charts else []
    return ["page.js", "diff.js", "completions.js", *drawn]


def _script(name: str) -> str:
    return f"<script>{asset(name)}</script>"


def _one(runs: Sequence[RunFiles], charts: list[Figure]) -> tuple[str, str]:
    """(what was trained and what happened, what to look at)."""
    (run,) = runs
    told = "".join(f"<p>{text(one)}</p>" for one in what_happened(run))
    missing = () if "stages" in run.result else run.notes  # a list's files lie in its stages
    notes = "".join(f'<p class="note">{text(note)}</p>' for note in missing)
    shown = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(words)}</dd></div>" for label, words in facts(run)
    )
    listed = run.config.get("stages")
    kind = f"{len(listed)} stages" if isinstance(listed, list) else run.config.get("stage", "run")
    stage = text(str(kind))
    return (
        f'<header><div><p class="quiet">cotjax · {stage}</p><h1>{text(run.name)}</h1>'
        f'<div class="lead">{told}</div>{_watching(run)}</div>{_path(runs, charts)}</header>'
        f"{notes}",
        f"{alarms(run)}{stages(run)}{comparison(run)}<dl>{shown}</dl>",
    )


def _several(runs: Sequence[RunFiles], charts: list[Figure]) -> tuple[str, str]:
    """(which runs and what differs by more than chance, tables of it)."""
    told, table = paired_tests(runs)
    lead = "".join(f"<p>{text(one)}</p>" for one in told)
    found = "".join(
        f'<section class="of"><h3>{text(run.name)}</h3>{alarms(run, heading=False)}</section>'
        for run in runs
        if run.alarms
    )
    found = f'<h2 id="findings">What to look at</h2>{found}' if found else ""
    notes = "".join(
        f'<p class="note">{text(run.name)}: {text(note)}</p>'
        for run in runs
        for note in ([] if run.stages else run.notes)
    )
    return (
        f'<header><div><p class="quiet">cotjax · {len(runs)} runs</p>'
        "<h1>Runs compared</h1>"
        f'<p class="keys">{_run_keys(runs)}</p><div class="lead">{lead}</div></div>'
        f"{_path(runs, charts)}</header>{notes}",
        f"{table}{found}",
    )


def _run_keys(runs: Sequence[RunFiles]) -> str:
    return "".join(
        f'<span><i style="--own:var(--c{number % MOST_RUNS})"></i>{text(run.name)}</span>'
        for number, run in enumerate(runs)
    )


def _watching(run: RunFiles) -> str:
    """Where the page says whether it looks again; its script fills it."""
    return "" if "seconds" in run.result else '<p class="quiet" id="watching" hidden></p>'


_PLACES = {
    "findings": "What to look at",
    "paired": "Paired tests",
    "stages": "Stages",
    "before": "Before and after",
    "completions": "Completions",
    "curves": "Curves",
    "settings": "Settings",
    "environment": "Environment",
    "replay": "Replay",
}


def _contents(page: str) -> str:
    """Links to the parts that a long page has."""
    found = {name: page.find(f'id="{name}"') for name in _PLACES}
    there = sorted((name for name in found if found[name] >= 0), key=found.__getitem__)
    links = "".join(f'<a href="#{name}">{_PLACES[name]}</a>' for name in there)
    return f'<nav aria-label="Parts of this page">{links}</nav>'


def _path(runs: Sequence[RunFiles], charts: list[Figure]) -> str:
    found = accuracy_against_length(runs)
    return "" if found is None else f'<div class="single">{_added(found, charts)}</div>'


def _added(figure: Figure, charts: list[Figure]) -> str:
    charts.append(figure)
    return figure.html(len(charts) - 1)


def _curves(runs: Sequence[RunFiles], charts: list[Figure]) -> str:
    """Buckets and figures; what is less known is folded away."""
    known, others = figures(runs)
    shown = "".join(_added(one, charts) for one in known)
    more = "".join(_added(one, charts) for one in others)
    tables = buckets(runs[0]) if len(runs) == 1 else ""
    if not shown and not more:
        return tables
    folded = f"<details><summary>More curves</summary>{_grid(more)}</details>" if more else ""
    steps = max(run.last_step() for run in runs)
    means = f"mean of about {width(steps):.0f} steps, rare outliers left out"
    keys = (
        f'<span><i class="raw"></i>each step</span><span><i></i>{means}</span>'
        '<span><i class="dot"></i>held-out problems, with 95% interval</span>'
    )
    if len(runs) > 1:
        keys = f"{_run_keys(runs)}<span>thin: each step; thick: {means}; dots: held-out</span>"
    head = f'<h2 id="curves">Curves</h2><p class="quiet keys">By step. {keys}</p>'
    return f"{tables}{head}{_grid(shown)}{folded}"


def _grid(shown: str) -> str:
    return f'<div class="charts">{shown}</div>'


def _completions(runs: Sequence[RunFiles]) -> str:
    """The place that report/completions.js fills."""
    if not any(part.completions for run in runs for part in (run.stages or [run])):
        return ""
    return (
        '<section id="completions"><h2>Completions</h2><div id="browser"><noscript><p class="note">'
        "Completions and curves need JavaScript, which this page brings along; allow it, or read "
        "completions.jsonl in the run folder.</p></noscript></div></section>"
    )
