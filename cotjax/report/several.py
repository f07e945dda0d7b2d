"""Several runs on one page: each against the first, on the same held-out questions."""

import dataclasses
from collections.abc import Iterator, Sequence

from cotjax.errors import InputError
from cotjax.report.embed import text
from cotjax.report.paired import (
    Paired,
    Sheet,
    compare_sheets,
    named_p,
    run_sheet,
    shown_interval,
    shown_p,
)
from cotjax.report.run_folder import RunFiles

_OTHERS = "were tested on different questions"  # in the error of `compare_sheets`


def named_apart(runs: Sequence[RunFiles]) -> list[RunFiles]:
    """Runs of one name, as two folders `grpo-0`, take their paths as names."""
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=run.path) if names.count(run.name) > 1 else run
        for run in runs
    ]


def paired_tests(runs: Sequence[RunFiles]) -> tuple[list[str], str]:
    """(sentences, a table) of each further run against the first."""
    told, rows, apart = list[str](), "", list[str]()
    for other in runs[1:]:
        try:
            first, second = run_sheet(runs[0]), run_sheet(other)
            found = compare_sheets(first, second)
        except InputError as error:
            if apart and _OTHERS in str(error):  # the way out is said once
                apart.append(other.name)
                continue
            apart += [other.name] if _OTHERS in str(error) else []
            told.append(f"Not paired: {error}")
            continue
        told.append(_sentence(first, second, found[0]))
        when = f'<span class="quiet">{text(second.when)}</span>'
        head = f'<th colspan="8" scope="rowgroup">{text(second.label)} {when}</th>'
        rows += f"<tbody><tr>{head}</tr>{''.join(_rows(found))}</tbody>"
    if len(apart) > 1:
        told.append(f"On other questions than {runs[0].name}, too: {', '.join(apart[1:])}.")
    if not rows:
        return told, ""
    head = "".join(
        f"<th>{title}</th>"
        for title in ("", "Questions", "Right", "Points", "Gained", "Lost", "p", "Tokens")
    )
    return told, (
        f'<h2 id="paired">Each against {text(runs[0].name)}</h2><p class="quiet">The same held-out '
        "questions, answered greedily at the end of each run. McNemar's exact test; differences "
        'with 95% bootstrap intervals over questions.</p><div class="wide" tabindex="0">'
        f'<table class="paired"><thead><tr>{head}</tr></thead>{rows}</table></div>'
    )


def _sentence(first: Sheet, second: Sheet, one: Paired) -> str:
    certain = "more than chance would give" if one.p_value < 0.05 else "which chance could give"
    shares = [f"{share:.1%}" for share in one.right]
    beside = f", as {first.label} has" if shares[0] == shares[1] else f" instead of {shares[0]}"
    old, new = (f"{tokens:,.0f}" for tokens in one.tokens)
    length = "equally long answers" if old == new else f"{new} tokens an answer instead of {old}"
    return (
        f"{second.label} has {shares[1]} right{beside}: "
        f"{one.gained:,} of {one.questions:,} questions gained and {one.lost:,} lost, {certain} "
        f"({named_p(one.p_value)}); {length}."
    )


def _rows(found: Sequence[Paired]) -> Iterator[str]:
    for one in found:
        points = " good" if one.points.low > 0 else " bad" if one.points.high < 0 else ""
        name = f"{one.level} steps" if one.level else "all"
        cells = [
            ("", f"{one.questions:,}"),
            ("", f"{one.right[0]:.1%} → {one.right[1]:.1%}"),
            (points, shown_interval(one.points)),
            *(("", f"{one.gained:,}"), ("", f"{one.lost:,}"), ("", shown_p(one.p_value))),
            ("", shown_interval(one.token_change)),
        ]
        shown = "".join(
            f'<td class="number{style}">{cell.replace("-", "−")}</td>' for style, cell in cells
        )
        yield f"<tr><td>{name}</td>{shown}</tr>"
