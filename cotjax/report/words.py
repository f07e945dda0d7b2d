"""What happened, in the words of a person, and the numbers that a reader looks for first."""

from collections.abc import Iterator
from typing import Any

from cotjax.progress import clock
from cotjax.report.completions import sides_of
from cotjax.report.paired import named_p
from cotjax.report.run_folder import RunFiles, is_number
from cotjax.report.statistics import mcnemar


def what_happened(run: RunFiles) -> Iterator[str]:
    """Sentences: what was trained, what changed, by more than chance or not, and what was found."""
    yield _trained(run)
    before, after = run.result.get("before", {}), run.result.get("after", {})
    if "accuracy" in before and "accuracy" in after:
        yield changed(before, after)
        if (found := before_and_after(run)) is not None:
            yield _by_question(*found)
    elif newest := _newest(run):
        where, line = newest
        when = f"At step {line['step']:,}{where} it answers"
        if not line["step"]:
            when = "Before training it answered"
        yield f"{when} {line['accuracy']:.1%} of the held-out questions right{_length(line)}."
    names = list(dict.fromkeys(row["name"] for row in run.alarms))
    if names:
        shown = ", ".join(names[:4]) + (" and others" if len(names) > 4 else "")
        yield f"Worth a look: {shown}."


def _trained(run: RunFiles) -> str:
    done, planned, stage = run.last_step(), run.config.get("steps"), run.config.get("stage")
    who = _student(run.stages[0] if run.stages else run)
    how = f" with {stage}" if isinstance(stage, str) and stage != "list" else ""
    if run.result.get("stages"):
        names = ", ".join(stage["name"] for stage in run.result["stages"][1:])
        return f"This run trained {who} in stages: {names}."
    if isinstance(listed := run.config.get("stages"), list):
        return _stages_so_far(run, who, len(listed))
    ended = "seconds" in run.result
    if not (done or ended) and isinstance(planned, int):
        return f"This run begins to train {who}{how}, for {planned:,} steps."
    budget = run.setting("budget", "tokens", int)  # which ends it, not its steps
    known = isinstance(planned, int) and planned > done and not (ended or budget)
    of = f" of {planned:,}" if known else ""
    verb = "trained" if ended else "has trained"
    time = f" in {clock(run.result['seconds'])}" if ended else ""
    return f"This run {verb} {who}{how} for {done:,}{of} steps{time}."


def _stages_so_far(run: RunFiles, who: str, total: int) -> str:
    if not run.stages:
        return f"This run begins to train {who} in {total} stages."
    now, done = run.stages[-1], [one.name for one in run.stages if "seconds" in one.result]
    if len(done) == len(run.stages):
        return f"This run has trained {who} in {len(done)} of {total} stages: {', '.join(done)}."
    planned, tokens = now.config.get("steps"), now.setting("budget", "tokens", int)
    of = f" of {planned:,}" if isinstance(planned, int) and not tokens else ""
    return (
        f"This run trains {who} in {total} stages, and is at step {now.last_step():,}{of} "
        f"in {now.name}."
    )


def _student(run: RunFiles) -> str:
    model = run.setting("model", "path", str)
    if not model:
        return "a student"
    words = "the built-in student" if model == "tiny" else f"the student {model}"
    random = run.setting("model", "init", str) == "random"
    return f"{words} from random weights" if random else words


def changed(before: dict[str, float], after: dict[str, float]) -> str:
    """What became of accuracy and length between two evaluations, in a sentence."""
    gain = 100 * (after["accuracy"] - before["accuracy"])
    verb = "rose" if gain > 0.05 else "fell" if gain < -0.05 else "stayed"
    moved = f"from {before['accuracy']:.1%} to {after['accuracy']:.1%}"
    accuracy = f"{verb} {moved}" if verb != "stayed" else f"stayed at {after['accuracy']:.1%}"
    old, new = before.get("tokens"), after.get("tokens")
    length = ""
    if is_number(old) and is_number(new) and old:
        share = new / old - 1
        size = "as long as before" if abs(share) < 0.005 else (
            f"{abs(share):.0%} {'longer' if share > 0 else 'shorter'}"
        )  # fmt: skip
        length = f", and answers are {size} ({old:,.0f}\xa0→\xa0{new:,.0f} tokens)"
    return f"Held-out accuracy {accuracy}{length}."


def _by_question(before: list[bool], after: list[bool]) -> str:
    gained = sum(new and not old for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    if not gained + lost:
        none = f"None of {len(before):,} questions is right, before or after."
        return "The same questions are right as before." if any(before) else none
    p = mcnemar(before, after)
    chance = "which is more than chance would give" if p < 0.05 else "which chance alone could give"
    return (
        f"{gained:,} of {len(before):,} questions turned right and {lost:,} turned wrong, {chance} "
        f"(McNemar's exact test, {named_p(p)})."
    )


def _newest(run: RunFiles) -> tuple[str, dict[str, Any]] | None:
    """(of which stage, in words; the newest evaluation)."""
    found = [
        (f" of {part.name}" if run.stages else "", line)
        for part in (run.stages or [run])
        for line in part.lines("eval", "accuracy")
    ]
    return found[-1] if found else None


def _length(line: dict[str, Any]) -> str:
    return f", in {line['tokens']:,.0f} tokens on average" if is_number(line.get("tokens")) else ""


def before_and_after(run: RunFiles) -> tuple[list[bool], list[bool]] | None:
    """What was right in the first and in the last evaluation, question by question.

    None if their answers were not kept, or the questions are not the same.
    """
    sides = sides_of([run])
    first, last = (_right(side.rows) for side in (sides[0], sides[-1])) if sides else ({}, {})
    if len(sides) < 2 or not first or first.keys() != last.keys():
        return None
    return list(first.values()), [last[key] for key in first]


def _right(rows: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], bool]:
    marks = {key: row.get("parts", {}).get("correct") for key, row in rows.items()}
    return {key: bool(mark) for key, mark in marks.items() if is_number(mark)}
