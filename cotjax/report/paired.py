"""Two answer sheets to the same held-out questions, compared question by question."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotjax.errors import InputError
from cotjax.report.run_folder import RunFiles, is_number, read_run
from cotjax.report.statistics import Interval, bootstrap_interval, mcnemar

LEVELS = 6  # of difficulty that are shown; more are joined
Key = tuple[str, str]  # a question's id and text


@dataclasses.dataclass(frozen=True)
class GradedAnswer:
    """What a run made of one question.

    Attributes:
      right: whether `eval.verifier` called it so.
      tokens: of the answer.
      difficulty: steps of the data's own solution; None where an earlier version left it out.
    """

    right: bool
    tokens: float
    difficulty: int | None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The greedy answers of one evaluation.

    Attributes:
      label: of whom, for tables.
      when: of which evaluation, in words; empty for a file of completions.
      answers: by question.
    """

    label: str
    when: str
    answers: Mapping[Key, GradedAnswer]


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two sheets, or one difficulty of them.

    Attributes:
      level: steps of the questions' solutions, such as "3" or "4–6"; empty for all questions.
      questions: how many.
      right: the shares that are right, first and second sheet.
      gained: questions that only the second has right.
      lost: questions that only the first has right.
      p_value: of McNemar's exact test.
      points: second minus first accuracy, in points.
      tokens: mean tokens of an answer, first and second sheet.
      token_change: second minus first, in tokens.
    """

    level: str
    questions: int
    right: tuple[float, float]
    gained: int
    lost: int
    p_value: float
    points: Interval
    tokens: tuple[float, float]
    token_change: Interval


def read_sheet(path: Path) -> Sheet:
    """The last evaluation of a run folder, or a file of `cotjax evaluate --completions`.

    Raises:
      InputError: there is no run and no such file, or no answer in it.
    """
    if not path.is_file():
        return run_sheet(read_run(path), str(path))
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON Lines ({error}).") from error
    return sheet_of(str(path), path.stem, "", rows)


def run_sheet(run: RunFiles, path: str = "") -> Sheet:
    """The last evaluation of a run whose answers were kept; of a list, that of its last stage.

    Raises:
      InputError: no evaluation's answers were kept.
    """
    last = next((one for one in reversed(run.stages) if _evaluated(one)), run)
    rows = _evaluated(last)
    step = max((row["step"] for row in rows), default=0)
    of = "" if last is run else f"{last.name}, "
    when = f"{of}step {step:,}" if step else f"{of}before training"
    return sheet_of(path or run.name, run.name, when, [row for row in rows if row["step"] == step])


def _evaluated(run: RunFiles) -> list[dict[str, Any]]:
    return [row for row in run.completions if row["kind"] != "train"]


def sheet_of(path: str, label: str, when: str, rows: Sequence[Any]) -> Sheet:
    """The sheet of rows as completions.jsonl has them; `path` names it in an error."""
    answers: dict[Key, GradedAnswer] = {}
    for row in rows:
        parts = row.get("parts") if isinstance(row, dict) else None
        if isinstance(parts, dict) and is_number(parts.get("correct")) and "id" in row:
            level, tokens = row.get("difficulty"), row.get("tokens")
            key = str(row["id"]), str(row.get("question"))
            known = level if isinstance(level, int) else None
            size = float(tokens) if is_number(tokens) else 0.0
            answers[key] = GradedAnswer(bool(parts["correct"]), size, known)
    if not answers:
        raise InputError(
            f"{path}: holds no answers to held-out questions. Wait for its first evaluation, or "
            "write them: cotjax evaluate --checkpoint RUN --completions FILE."
        )
    return Sheet(label, when, answers)


def check_apart(command: str, paths: Sequence[Path]) -> None:
    """Refuses a run beside itself.

    Raises:
      InputError: names the run that is there twice.
    """
    places = [path.resolve() for path in paths]
    for number, path in enumerate(paths):
        if places.index(places[number]) < number:
            raise InputError(f"cotjax {command}: {path} is named twice. Name each run once.")


def check_same_questions(first: Sheet, second: Sheet) -> None:
    """Refuses sheets to different questions.

    Raises:
      InputError: they are; says how many they have in common.
    """
    common = len(first.answers.keys() & second.answers.keys())
    sizes = len(first.answers), len(second.answers)
    if not sizes[0] == sizes[1] == common:
        raise InputError(
            f"{first.label} and {second.label}: were tested on different questions ({sizes[0]:,} "
            f"and {sizes[1]:,}, {common:,} of them the same). Compare runs with equal data and "
            "eval.problems, or let both answer one file: cotjax evaluate --checkpoint RUN --files "
            "FILE --completions FILE."
        )


def compare_sheets(first: Sheet, second: Sheet) -> list[Paired]:
    """All questions, then each difficulty if the runs say it and there are several.

    Raises:
      InputError: the questions are not the same.
    """
    check_same_questions(first, second)
    pairs = [(answer, second.answers[key]) for key, answer in first.answers.items()]
    found = [_paired("", pairs)]
    bands = _bands([one.difficulty for one, _ in pairs])
    if len(bands) > 1:
        for low, high in bands:
            level = f"{low}" if low == high else f"{low}–{high}"
            chosen = [pair for pair in pairs if low <= (pair[0].difficulty or 0) <= high]
            found.append(_paired(level, chosen))
    return found


def _paired(level: str, pairs: Sequence[tuple[GradedAnswer, GradedAnswer]]) -> Paired:
    one, other = ([pair[side].right for pair in pairs] for side in (0, 1))
    lengths = [[pair[side].tokens for pair in pairs] for side in (0, 1)]
    mean: Callable[[Sequence[float]], float] = lambda values: sum(values) / len(values)  # noqa: E731
    return Paired(
        level=level,
        questions=len(pairs),
        right=(mean(one), mean(other)),
        gained=sum(b and not a for a, b in zip(one, other, strict=True)),
        lost=sum(a and not b for a, b in zip(one, other, strict=True)),
        p_value=mcnemar(one, other),
        points=bootstrap_interval([100 * (b - a) for a, b in zip(one, other, strict=True)]),
        tokens=(mean(lengths[0]), mean(lengths[1])),
        token_change=bootstrap_interval([b - a for a, b in zip(*lengths, strict=True)]),
    )


def _bands(levels: Sequence[int | None]) -> list[tuple[int, int]]:
    """Ranges of difficulty, each with about as many questions; none if one is not known."""
    known = sorted(level for level in levels if level is not None)
    if len(known) < len(levels) or not known:
        return []
    values = sorted(set(known))
    if len(values) <= LEVELS:
        return [(value, value) for value in values]
    ends = sorted({known[-(-len(known) * part // LEVELS) - 1] for part in range(1, LEVELS + 1)})
    lows = [values[0], *(values[values.index(end) + 1] for end in ends[:-1])]
    return list(zip(lows, ends, strict=True))


def as_json(value: Any) -> str:
    r"""Numbers as JSON, in which what is not finite, as the interval of one question, is null.

    Example:
      >>> as_json([float("nan")])
      '[\n  null\n]\n'
    """
    plain = json.loads(json.dumps(value), parse_constant=lambda name: None)
    return json.dumps(plain, indent=2) + "\n"


def shown_p(p: float) -> str:
    """A p-value as tables show it.

    Example:
      >>> shown_p(0.0004), shown_p(0.25)
      ('< 0.001', '0.250')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def named_p(p: float) -> str:
    r"""A p-value in a sentence.

    Example:
      >>> named_p(0.25)
      'p\xa0=\xa00.250'
    """
    shown = shown_p(p)
    return f"p {shown if shown.startswith('<') else f'= {shown}'}".replace(" ", "\xa0")


def sentences(one: Paired) -> Iterator[str]:
    """Accuracy, the questions that changed, and length, in words."""
    before, after = one.right
    yield f"Right: {before:.1%} → {after:.1%}, {shown_interval(one.points)} points."
    certain = (
        "which is more than chance would" if one.p_value < 0.05 else "which chance alone could"
    )
    if one.gained + one.lost:
        plural = "s" * (one.gained != 1)
        yield (
            f"{one.gained:,} question{plural} gained, {one.lost:,} lost, {certain} give "
            f"(McNemar, exact: {named_p(one.p_value)})."
        )
    else:
        yield "No question gained or lost."
    old, new = one.tokens
    share = f"{new / old - 1:+.1%}; " if old else ""
    yield f"Tokens: {old:.1f} → {new:.1f}, {share}{shown_interval(one.token_change)} tokens."


def shown_interval(found: Interval) -> str:
    """A mean difference with its 95% interval; alone if a single question gives none.

    Example:
      >>> shown_interval(Interval(1.25, -0.5, 3.0))
      '+1.2 (-0.5 to +3.0)'
    """
    mean, low, high = (f"{one:+z.1f}" for one in (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f"{mean} ({low} to {high})"
