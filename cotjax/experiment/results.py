"""What a run of an experiment gave, as one line of results.jsonl."""

import dataclasses
import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cotjax.config import Config, stage_configs
from cotjax.errors import InputError
from cotjax.experiment.cells import BASE, Cell, Experiment, config_of
from cotjax.report.run_folder import RunFiles, read_run
from cotjax.storage import SAME, append_whole, rows_of


@dataclasses.dataclass(frozen=True)
class ArmResult:
    """A student and what it did with the held-out questions.

    Attributes:
      arm: its name.
      seed: of its run.
      fingerprint: of its settings.
      status: `done`, or `failed`; a run that failed has no numbers.
      commit: of the code that trained, several with commas if it was resumed with other code.
      seconds: that it took.
      steps: that it took.
      used_tokens: trained on, sampled and mined.
      numbers: of the last evaluation, by name.
      curve: (share of the budget, numbers) of each evaluation, the first before training.
      curve_right: `right` of each of these evaluations, empty where its answers were not kept.
      right: a 0 or 1 for each question, answered greedily.
      lengths: tokens of these answers.
      questions: a hash of the questions' ids, in order.
      texts: a hash of their texts; empty where an earlier version left it out.
      began: a hash of the answers of what it began from.
      error: the last line of what a failed run said.
      trained_on: which held-out questions were trained on too, in words; empty if none was.
      left_out: stages of a list that found nothing to do; what they mined to find out counts.
    """

    arm: str
    seed: int
    fingerprint: str
    status: str
    commit: str
    seconds: float = 0.0
    steps: int = 0
    used_tokens: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    numbers: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    curve: list[tuple[float, dict[str, float]]] = dataclasses.field(default_factory=list)
    curve_right: list[str] = dataclasses.field(default_factory=list[str])
    right: str = ""
    lengths: list[int] = dataclasses.field(default_factory=list[int])
    questions: str = ""
    began: str = ""
    error: str = ""
    trained_on: str = ""
    left_out: list[str] = dataclasses.field(default_factory=list[str])
    texts: str = ""

    @property
    def tokens(self) -> int:
        """All that were used."""
        return sum(self.used_tokens.values())

    def answers_the_same(self, other: "ArmResult") -> bool:
        """Whether both answered the same questions.

        Built-in problems of one number have one id, whatever their length and words.
        """
        known = self.texts and other.texts
        return self.questions == other.questions and (not known or self.texts == other.texts)


def collect(
    experiment: Experiment, cell: Cell, folder: pathlib.Path
) -> tuple[ArmResult, ArmResult]:
    """(what a run began from, what it became), from its folder.

    Args:
      experiment: whose budget the curve is a share of.
      cell: the arm and seed.
      folder: of the run, whole.
    """
    result = json.loads((folder / "result.json").read_text("utf-8"))
    names = [row["name"] for row in result.get("stages", [])[1:]]
    parts = [folder / name for name in names] or [folder]
    curve: list[tuple[float, dict[str, float]]] = []
    curve_right: list[str] = []
    used: dict[str, int] = {}
    done = 0.0
    for number, part in enumerate(parts):
        run = read_run(part)
        at = {0: done}
        own = json.loads((part / "result.json").read_text("utf-8"))
        for line in run.metrics:
            if line["kind"] == "train":
                now = line["used_tokens"] if experiment.unit == "tokens" else line["step"]
                at[line["step"]] = done + now
        for line in run.metrics:
            if line["kind"] == "eval" and (number == 0 or line["step"]):
                curve.append((at[line["step"]] / experiment.budget, _numbers(line)))
                curve_right.append(_sheet(run, line["step"])["right"])
        done = at[max(at)]
        for use, count in own["used_tokens"].items():
            used[use] = used.get(use, 0) + count
    planned = [f"{number}-{name}" for number, (name, _) in enumerate(_stages(cell), 1)]
    left_out = [name for name in planned if name not in names]
    for name in left_out:
        mined = rows_of(folder / name / "mined.jsonl", ("tokens",))
        used["mined"] = used.get("mined", 0) + sum(line["tokens"] for line in mined)
    first, last = read_run(parts[0]), read_run(parts[-1])
    common: dict[str, Any] = {"fingerprint": cell.fingerprint(), "status": "done"}
    common["commit"] = ", ".join(dict.fromkeys(_commit(part) for part in result["parts"]))
    sheet = _sheet(first, 0)
    common["began"] = _hash(sheet["right"], *map(str, sheet["lengths"]))
    base = ArmResult(BASE, 0, **common, **sheet, numbers=curve[0][1])
    row = ArmResult(
        *(cell.arm, cell.seed),
        **common,
        seconds=result["seconds"],
        steps=result["steps"],
        used_tokens=used,
        numbers=curve[-1][1],
        curve=curve,
        curve_right=curve_right,
        left_out=left_out,
        **_sheet(last, last.result["steps"]),
    )
    return base, row


def _stages(cell: Cell) -> Sequence[tuple[str, Config]]:
    """The stages of a list by name; none of a run of one stage."""
    config = config_of(cell)
    return stage_configs(config) if config.stages else []


def _commit(part: dict[str, Any]) -> str:
    """Of the code of a part of a run; an earlier version wrote its own number alone."""
    return part.get("commit", part["version"])


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in ("step", "kind")}


def _sheet(run: RunFiles, step: int) -> dict[str, Any]:
    """The answers to the held-out questions in the evaluation behind a step, in their order."""
    rows = [row for row in run.completions if row["kind"] != "train" and row["step"] == step]
    return {
        "right": "".join(str(int(row["parts"]["correct"])) for row in rows),
        "lengths": [row["tokens"] for row in rows],
        "questions": _hash(*(row["id"] for row in rows)),
        "texts": _hash(*(row["question"] for row in rows)),
    }


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def read_rows(path: pathlib.Path) -> list[ArmResult]:
    """The rows of a results.jsonl that count: of one arm and seed the last, and one base.

    Raises:
      InputError: see `read_lines`.
    """
    return that_count(read_lines(path))


def that_count(lines: Sequence[ArmResult]) -> list[ArmResult]:
    """The last line of each arm and seed; of several bases, the one that most runs began from.

    Bases differ where an arm asks in other words than the others, or where files of several
    machines or other questions are joined; which of them stands last says nothing.
    """
    found = {(row.arm, row.seed): row for row in lines}
    begun = Counter(row.began for row in found.values() if row.arm != BASE and row.status == "done")
    bases = [row for row in lines if row.arm == BASE]
    if bases:
        found[bases[0].arm, bases[0].seed] = max(bases, key=lambda row: begun[row.began])
    return list(found.values())


def read_lines(path: pathlib.Path) -> list[ArmResult]:
    """All lines of a results.jsonl; none of a file that is not there.

    Raises:
      InputError: it cannot be read, or a line is not of an experiment.
    """
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({told}). Name a results.jsonl.") from error
    found: list[ArmResult] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_checked(ArmResult(**json.loads(line))))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path}:{number}: not a line of an experiment ({error}). Remove it."
            ) from error
    return found


def _checked(row: ArmResult) -> ArmResult:
    """A row that the tables can count with.

    Raises:
      ValueError: it lacks what they need.
    """
    if not isinstance(row.arm, str) or type(row.seed) is not int:
        raise ValueError("arm and seed are no text and whole number")
    if row.status == "done":
        if lacking := [name for name in ("accuracy", "tokens") if name not in row.numbers]:
            raise ValueError(f"numbers has no {lacking[0]}")
        if len(row.right) != len(row.lengths):  # both are empty where a kill lost the answers
            raise ValueError("right and lengths are not of the same questions")
    return row


def append(path: pathlib.Path, *rows: ArmResult) -> None:
    """Writes lines at the end, each whole."""
    text = "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    append_whole(path, text, then=SAME)
