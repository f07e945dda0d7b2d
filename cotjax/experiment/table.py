"""Tables of an experiment: what each arm reached, and what differs by more than chance."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from cotjax.experiment.cells import BASE, Experiment, cells
from cotjax.experiment.results import ArmResult
from cotjax.report.statistics import (
    Interval,
    area_under,
    bootstrap_interval,
    mcnemar,
    t_interval,
)

OFF = 0.05  # share of the budget by which a run may miss it without a note
APART = 0.02  # and by which two arms may be evaluated apart from each other


def by_arm(rows: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    """The runs that ended, by arm in the order in which they came, each by seed."""
    arms: dict[str, list[ArmResult]] = {}
    for row in sorted(rows, key=lambda row: row.arm != BASE):
        if row.status == "done":
            arms.setdefault(row.arm, []).append(row)
    return {arm: sorted(found, key=lambda row: row.seed) for arm, found in arms.items()}


def tables(
    experiment: Experiment, rows: Sequence[ArmResult], *, seeds: Sequence[int] | None = None
) -> str:
    """All tables as Markdown, with notes on whatever a reader must know.

    Args:
      experiment: whose arms these are.
      rows: of its results.jsonl.
      seeds: that were to be run; None: those that are reported.
    """
    arms = by_arm(rows)
    parts = [_reached(arms), _differences(experiment, arms), _on_the_way(experiment, arms)]
    parts += _notes(experiment, rows, arms, seeds)
    return "\n\n".join(part for part in parts if part) + "\n"


def _reached(arms: dict[str, list[ArmResult]]) -> str:
    lines = [
        "| arm | seeds | greedy | sampled | tokens | area under the curve | tokens used | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, rows in arms.items():
        cells = [
            arm,
            str(len(rows)) if arm != BASE else "",
            _percent(_numbers(rows, "accuracy")),
            _percent(_numbers(rows, "sampled_accuracy")),
            _plain(_numbers(rows, "tokens")),
            _percent([_area(row) for row in rows]) if arm != BASE else "",
            f"{np.mean([row.tokens for row in rows]) / 1e6:.2f} M" if arm != BASE else "",
            f"{np.mean([row.steps for row in rows]):.0f}" if arm != BASE else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _area(row: ArmResult) -> float:
    shares = [share for share, _ in row.curve]
    return area_under(shares, [numbers["accuracy"] for _, numbers in row.curve])


def _differences(experiment: Experiment, arms: dict[str, list[ArmResult]]) -> str:
    against = arms.get(experiment.against)
    if not against:
        return (
            f"No run of {experiment.against}, against which the arms are to be compared, has ended."
        )
    lines = [
        f"Against **{experiment.against}**, points of greedy accuracy and tokens of an answer:",
        "",
        "| arm | points, by seed | by question | McNemar by seed | tokens, by seed | by question |",
        "|---|---|---|---|---|---|",
    ]
    for arm, rows in arms.items():
        if arm == experiment.against:
            continue
        pairs = list(_pairs(rows, against))
        if not pairs:
            lines.append(f"| {arm} | no seed of both on the same questions | | | | |")
            continue
        right = np.mean([_right(one) - _right(other) for one, other in pairs], axis=0)
        length = np.mean([np.subtract(one.lengths, other.lengths) for one, other in pairs], axis=0)
        cells = [
            arm,
            _interval(t_interval(_by_seed(pairs, "accuracy", 100))),
            _interval(bootstrap_interval((100 * right).tolist())),
            ", ".join(_p_value(_mcnemar(one, other)) for one, other in pairs),
            _interval(t_interval(_by_seed(pairs, "tokens", 1))),
            _interval(bootstrap_interval(length.tolist())),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _on_the_way(experiment: Experiment, arms: dict[str, list[ArmResult]]) -> str:
    """Points of each arm at each share of the budget, against the same of the other arm."""
    against, shares = arms.get(experiment.against), (*experiment.curve, 1.0)
    if not against or len(shares) == 1:
        return ""
    lines = [
        f"The same on the way, at shares of the budget, against {experiment.against} there; by "
        "seed, or by question if there is one seed:",
        "",
        f"| arm | {' | '.join(f'{share:.0%}' for share in shares)} |",
        f"|---{'|---' * len(shares)}|",
    ]
    for arm, rows in arms.items():
        if arm not in (experiment.against, BASE):
            pairs = list(_pairs(rows, against))
            cells = [_at(share, pairs) for share in shares]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _at(share: float, pairs: Sequence[tuple[ArmResult, ArmResult]]) -> str:
    """Points of the first arm above the second, both evaluated near a share of the budget."""
    both = _points(share, pairs)
    if not both:
        return ""
    points = [100 * (one.accuracy - other.accuracy) for one, other in both]
    few = f", {len(both)} of {len(pairs)} seeds" if len(both) < len(pairs) else ""
    (one, other), *more = both
    if not more and one.right and len(one.right) == len(other.right):
        marks = np.array([[int(mark) for mark in sheet.right] for sheet in (one, other)], float)
        return _interval(bootstrap_interval((100 * (marks[0] - marks[1])).tolist())) + few
    return _interval(t_interval(points)) + few


def _points(
    share: float, pairs: Sequence[tuple[ArmResult, ArmResult]]
) -> list[tuple["Point", "Point"]]:
    """Those evaluations near a share of the budget that both runs of a pair have."""
    found = [(_point(one, share), _point(other, share)) for one, other in pairs]
    return [(one, other) for one, other in found if one and other]


def _apart(experiment: Experiment, arms: dict[str, list[ArmResult]]) -> Iterator[str]:
    """A note for each arm that was evaluated elsewhere on the way than the one it is beside."""
    for arm, rows in arms.items():
        pairs = list(_pairs(rows, arms.get(experiment.against, [])))
        places: list[tuple[float, float]] = []
        for share in experiment.curve:
            both = [two for two in _points(share, pairs) if BASE not in (arm, experiment.against)]
            if both:
                one, other = np.mean([[point.share for point in two] for two in both], axis=0)
                places.append((float(one), float(other)))
        if any(abs(one - other) > APART for one, other in places):
            own, theirs = (", ".join(f"{place[side]:.0%}" for place in places) for side in (0, 1))
            yield (
                f"{arm} was evaluated at {own} of the budget on the way, {experiment.against} at "
                f"{theirs}: what differs there is a difference in tokens too."
            )


@dataclasses.dataclass(frozen=True)
class Point:
    """An evaluation on the way.

    Attributes:
      share: of the budget that was used.
      accuracy: greedy.
      right: a 0 or 1 for each question; empty if the answers were not kept.
    """

    share: float
    accuracy: float
    right: str


def _point(row: ArmResult, share: float) -> Point | None:
    """The evaluation nearest to a share of the budget; None without any near it.

    The base is at every share what it is.
    """
    if row.arm == BASE:
        return Point(share, row.numbers["accuracy"], row.right)
    near = min(range(len(row.curve)), key=lambda at: abs(row.curve[at][0] - share), default=None)
    if near is None or abs(row.curve[near][0] - share) > OFF:
        return None
    (place, numbers), sheets = row.curve[near], row.curve_right
    return Point(place, numbers["accuracy"], sheets[near] if near < len(sheets) else "")


def _pairs(
    rows: Sequence[ArmResult], others: Sequence[ArmResult]
) -> Iterator[tuple[ArmResult, ArmResult]]:
    """Runs of one seed on the same questions; the base stands for every seed."""
    for one in rows:
        for other in others:
            same = one.seed == other.seed or BASE in (one.arm, other.arm)
            if same and one.answers_the_same(other):
                yield one, other


def _mcnemar(one: ArmResult, other: ArmResult) -> float:
    """Of one seed: seeds answer the same questions, so their sheets are no further evidence."""
    return mcnemar(*(_right(row).astype(bool).tolist() for row in (one, other)))


def _by_seed(pairs: Sequence[tuple[ArmResult, ArmResult]], name: str, scale: float) -> list[float]:
    return [scale * (one.numbers[name] - other.numbers[name]) for one, other in pairs]


def _right(row: ArmResult) -> np.ndarray:
    return np.array([int(mark) for mark in row.right], float)


def _notes(
    experiment: Experiment,
    rows: Sequence[ArmResult],
    arms: dict[str, list[ArmResult]],
    seeds: Sequence[int] | None,
) -> Iterator[str]:
    if experiment.chosen:
        yield f"Chosen: {experiment.chosen}."
    missing = [
        f"{arm} with seed {seed}"
        for arm, own in experiment.arms.items()
        for seed in (experiment.seeds if seeds is None else seeds)
        if own and not any((row.arm, row.seed) == (arm, seed) for row in rows)
    ]
    if missing:
        yield f"Not run yet: {', '.join(missing)}."
    for row in rows:
        if row.status != "done":
            yield f"{row.arm} with seed {row.seed} failed, and is not in the tables: {row.error}"
        if row.left_out:
            out = ", ".join(row.left_out)
            yield f"{row.arm} with seed {row.seed} left out {out}, which found nothing to do."
    for note in dict.fromkeys(row.trained_on for row in rows if row.trained_on):
        of = ", ".join(f"{row.arm} {row.seed}" for row in rows if row.trained_on == note)
        yield f"Held-out questions in training, {of}: {note}"
    yield from _strangers(experiment, rows, seeds)
    commits = {one for row in rows for one in row.commit.split(", ")}
    if len(commits) > 1:
        told = ", ".join(f"{row.arm} {row.seed}: {row.commit}" for row in rows)
        yield f"Runs of {len(commits)} commits are mixed: {told}."
    for row in rows:
        if any(base.began != row.began for base in arms.get(BASE, []) if row.status == "done"):
            yield (
                f"{row.arm} with seed {row.seed} began from another student than the base, or asks "
                "it in other words."
            )
    ended = [row for found in arms.values() for row in found]
    if any(not row.answers_the_same(other) for row in ended for other in ended):
        yield "Not all runs answered the same questions; only those that did are paired."
    against = {row.seed for row in arms.get(experiment.against, [])}
    for arm, found in arms.items():
        alone = [row.seed for row in found if row.seed not in against]
        if against and alone and BASE not in (arm, experiment.against):
            seeds_ = ", ".join(map(str, alone))
            yield f"{arm} with seed {seeds_} is not compared: {experiment.against} has no such run."
    yield from _apart(experiment, arms)
    for arm, found in arms.items():
        if arm != BASE:
            yield from _off(experiment, arm, found)


def _off(experiment: Experiment, arm: str, rows: Sequence[ArmResult]) -> Iterator[str]:
    """A note on an arm that missed the budget, or on single runs of it that did."""
    used = {row.seed: row.tokens if experiment.unit == "tokens" else row.steps for row in rows}
    stages = len(experiment.arms.get(arm, {}).get("stages", [arm]))
    tiny = experiment.unit == "tokens" and all(row.steps <= stages for row in rows)
    hint = " One step uses more: lower batch.size or rollout.prompts, or raise it." if tiny else ""
    named = {f"{arm} with seed {seed}": float(one) for seed, one in used.items()}
    mean = float(np.mean([*used.values()]))
    if abs(mean / experiment.budget - 1) > OFF:
        named = {arm: mean}
    for name, one in named.items():
        if abs(off := one / experiment.budget - 1) > OFF:
            yield (
                f"{name} used {one:,.0f} {experiment.unit}, {off:+.0%} of the budget of "
                f"{experiment.budget:,}.{hint if off > 0 else ''}"
            )


def _strangers(
    experiment: Experiment, rows: Sequence[ArmResult], seeds: Sequence[int] | None
) -> Iterator[str]:
    """Notes on rows that the experiment's file, as it is now, would not give."""
    now = {
        (cell.arm, cell.seed): cell.fingerprint()
        for validation in (False, True)
        for cell in cells(experiment, validation=validation)
    }
    ours = experiment.seeds if seeds is None else seeds
    trained = [row for row in rows if row.arm != BASE and row.status == "done"]
    names = {(row.arm, row.seed): f"{row.arm} with seed {row.seed}" for row in trained}
    foreign = [key for key in names if key not in now or key[1] not in ours]
    if foreign:
        told = ", ".join(names[key] for key in foreign)
        yield f"In the tables, but no arm and seed of {experiment.name}.toml: {told}."
    changed = [
        names[row.arm, row.seed]
        for row in trained
        if (row.arm, row.seed) in now and row.fingerprint != now[row.arm, row.seed]
    ]
    if changed:
        yield f"Run with other settings than {experiment.name}.toml has now: {', '.join(changed)}."


def _numbers(rows: Sequence[ArmResult], name: str) -> list[float]:
    return [row.numbers[name] for row in rows if name in row.numbers]


def _percent(values: Sequence[float]) -> str:
    return _mean(values, lambda value: f"{100 * value:.1f}") + " %" if values else ""


def _plain(values: Sequence[float]) -> str:
    return _mean(values, lambda value: f"{value:.1f}")


def _mean(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The mean, and half of its 95 % interval if there are several values."""
    found = t_interval(values)
    reach = "" if np.isnan(found.low) else f" ± {form(found.high - found.mean)}"
    return form(found.mean) + reach


def _interval(found: Interval) -> str:
    if np.isnan(found.low):
        return f"{found.mean:+.1f}"
    shown = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
    return f"**{shown}**" if found.excludes_zero else shown


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
