"""The completions of runs as data for the page: held-out questions, and groups of training steps.

What is too much for one page is thinned evenly, never hand-picked, and counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cotjax.report.embed import LETTERS_SHOWN, dumped
from cotjax.report.run_folder import RunFiles, is_number

BUDGET = 1_500_000  # bytes of JSON; the page with its scripts stays below 3 MB
GROUPS_SHARE = 0.35  # of the budget, for groups of training steps
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Side:
    """One evaluation of one run: what can stand on one side of a comparison.

    Attributes:
      label: on the page.
      run: its number.
      rows: of completions.jsonl, by question.
    """

    label: str
    run: int
    rows: dict[tuple[str, str], Row]


def sides_of(runs: Sequence[RunFiles]) -> list[Side]:
    """Every evaluation whose answers were kept, run by run and step by step."""
    found = []
    for number, run in enumerate(runs):
        own = f"{run.name} · " if len(runs) > 1 else ""
        for place, part in enumerate(run.stages or [run]):
            of = f"{part.name} · " if run.stages else ""
            for step, rows in _evaluations(part).items():
                if run.stages and place and not step:
                    continue  # a stage begins where the one before it ended
                label = f"{own}before" if not step else f"{own}{of}{_when(step, rows)}"
                found.append(Side(label, number, {(row["id"], row["question"]): row
                                                  for row in rows}))  # fmt: skip
    return found


def _evaluations(run: RunFiles) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in run.completions:
        if row["kind"] != "train":
            found.setdefault(row["step"], []).append(row)
    return dict(sorted(found.items()))


def _when(step: int, rows: Sequence[Row]) -> str:
    return f"after, step {step:,}" if rows[0]["kind"] == "after" else f"step {step:,}"


def completions_data(runs: Sequence[RunFiles]) -> Row:
    """What the page's script shows; see `report/completions.js` for how.

    Returns:
      `sides`, `questions` with an answer per side or none, `groups` of training steps, the `parts`
      of rewards that answers list by number, and how many of each there were.
    """
    sides = sides_of(runs)
    parts = _part_names(runs)
    keys = list(dict.fromkeys(key for side in sides for key in side.rows))
    kept, questions = _fitting_questions(sides, keys, parts)
    groups = [one for number, run in enumerate(runs) for one in _groups(run, number, parts)]
    shown = _thinned(groups, BUDGET * (GROUPS_SHARE if questions else 1))
    return {
        "parts": parts,
        "sides": [{"label": side.label, "run": side.run} for side in kept],
        "leftSides": len(sides) - len(kept),
        "questions": questions,
        "ofQuestions": len(keys),
        "groups": shown,
        "ofGroups": len(groups),
    }


def _fitting_questions(
    sides: list[Side], keys: list[tuple[str, str]], parts: list[str]
) -> tuple[list[Side], list[Row]]:
    """All evaluations if they fit, else the first and last of each run, else fewer questions."""
    room = BUDGET * (1 - GROUPS_SHARE)
    questions = [_question(key, sides, parts) for key in keys]
    if _size(questions) <= room:
        return sides, questions
    ends = [
        side
        for place, side in enumerate(sides)
        if place in (0, len(sides) - 1)
        or side.run != sides[place - 1].run
        or side.run != sides[place + 1].run
    ]
    return ends, _thinned([_question(key, ends, parts) for key in keys], room)


def _question(key: tuple[str, str], sides: list[Side], parts: list[str]) -> Row:
    rows = [side.rows.get(key) for side in sides]
    first = next((row for row in rows if row is not None), {})
    return {
        **_asked(first),
        "answers": [None if row is None else _answer(row, parts) for row in rows],
    }


def _asked(row: Row) -> Row:
    found = {"id": _cut(row.get("id", "")), "question": _cut(row.get("question", ""))}
    found["gold"] = _cut(str(row.get("gold")))
    level = row.get("difficulty")
    return found | ({"difficulty": level} if is_number(level) else {})


def _groups(run: RunFiles, number: int, parts: list[str]) -> list[Row]:
    """The groups that training steps kept, in their order."""
    found: list[Row] = []
    for part in run.stages or [run]:
        groups: dict[tuple[int, str], Row] = {}
        for row in part.completions:
            if row["kind"] != "train":
                continue
            group = groups.setdefault(
                (row["step"], row["id"]),
                {"run": number, "step": row["step"], **_asked(row), "answers": []},
            )
            if run.stages:
                group["stage"] = part.name
            if isinstance(row.get("prompt"), str):
                group["prompt"] = _cut(row["prompt"])
            group["answers"].append(_answer(row, parts) | _tokens(row))
        found += groups.values()
    return found


def _answer(row: Row, parts: list[str]) -> Row:
    """Short names, for there are thousands: text, n tokens, correct, end, reward, parts."""
    own = row.get("parts", {})
    text = row["completion"]
    found: Row = {"t": text[:LETTERS_SHOWN], "n": row["tokens"]}
    if len(text) > LETTERS_SHOWN:
        found["more"] = len(text) - LETTERS_SHOWN
    if is_number(own.get("correct")):
        found["c"] = int(bool(own["correct"]))
    if isinstance(row.get("end"), str) and row["end"] != "eos":
        found["e"] = _cut(row["end"])
    if is_number(row.get("reward")):
        found["r"] = _short(row["reward"])
    values = [_short(own[name]) if is_number(own.get(name)) else None for name in parts]
    if any(value is not None for value in values):
        found["p"] = values
    if isinstance(row.get("failed"), str):
        found["failed"] = _cut(row["failed"])
    return found


def _tokens(row: Row) -> Row:
    """What colours the tokens, where the file has it and the text is whole."""
    letters, logp = row.get("letters"), row.get("logp")
    found: Row = {}
    if is_number(row.get("advantage")):
        found["a"] = _short(row["advantage"])
    if isinstance(letters, list) and isinstance(logp, list) and len(letters) == len(logp):
        whole = all(isinstance(one, int) and 0 <= one < LETTERS_SHOWN for one in letters)
        if whole and sum(letters) <= len(row["completion"]) <= LETTERS_SHOWN:
            found["l"] = letters
            found["lp"] = [one if is_number(one) else None for one in logp]
    return found


# Parts that a reward records without adding them up.
NOT_SUMMED = {"correct", "well_formed", "num_steps", "length", "ratio", "over_limit", "target"}
MOST_PARTS = 24


def _part_names(runs: Sequence[RunFiles]) -> list[str]:
    """The parts that rewards add up, by name."""
    names = dict.fromkeys(
        name
        for run in runs
        for part in (run.stages or [run])
        for row in part.completions
        for name in row.get("parts", {})
        if name not in NOT_SUMMED
    )
    return [name for name in names if len(name) <= 80][:MOST_PARTS]


def part_means(rows: Sequence[Row], parts: Sequence[str]) -> list[float | None]:
    """The mean of each part over the rows that have it; None if none has."""
    means: list[float | None] = []
    for name in parts:
        values = [row["parts"][name] for row in rows if is_number(row.get("parts", {}).get(name))]
        means.append(sum(values) / len(values) if values else None)
    return means


def _cut(value: str) -> str:
    return value if len(value) <= LETTERS_SHOWN else value[:LETTERS_SHOWN] + "…"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _size(value: Any) -> int:
    return len(dumped(value).encode("utf-8", "replace"))


def _thinned(rows: list[Row], room: float) -> list[Row]:
    """As many rows as fit, evenly spaced from the first to the last."""
    sizes = [_size(row) + 1 for row in rows]
    count = len(rows)
    while count:
        places = [round(place * (len(rows) - 1) / max(count - 1, 1)) for place in range(count)]
        total = sum(sizes[place] for place in places)
        if total <= room:
            return [rows[place] for place in places]
        count = min(count - 1, int(count * room / total))
    return []
