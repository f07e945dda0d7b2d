"""A run folder as read, at any moment of the run, whole or damaged.

What a file should not hold is left out and told: a page of what is there helps more than an error.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from cotjax.errors import InputError, visible

_LAST_STEP = 2**53  # a larger one is no count of steps
_LARGEST = 1e300  # what axes can show with a margin

Series = tuple[list[int], list[float]]

_MISSING = {
    "config.toml": "the settings are not shown",
    "metrics.jsonl": "curves begin with the first step",
    "completions.jsonl": "there are no completions to show",
    "result.json": "the run is still going or was stopped; the comparison before and after "
    "training comes with its end",
}


_OF_STAGES = {"metrics.jsonl", "completions.jsonl"}  # of a list, which lie in its stages' folders
_OF_A_RESULT = {"before", "after", "steps", "seconds", "stages"}
_NAME_ONE = "Name the folder of a run, runs/NAME."


@dataclass(frozen=True)
class RunFiles:
    """What is there, and a sentence for what is not.

    Attributes:
      name: the folder's name.
      config_text: config.toml as it stands; empty if missing.
      config: the same, parsed.
      metrics: the objects of metrics.jsonl that have a step and a kind.
      completions: the objects of completions.jsonl that have what every completion has.
      result: result.json; of evaluations and stages, what are numbers.
      facts: of facts.json, (label, form) of settings that the stage shows.
      notes: one sentence for each file that is missing or damaged.
      alarms: the objects of alarms.jsonl that have a step, a name and words.
      parts: of parts.json, with which code and devices the run was made; one for each start.
      path: the folder as it was given, for commands.
      stages: of a list, its stages that have begun, in their order.
    """

    name: str
    config_text: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    result: dict[str, Any]
    facts: list[tuple[str, str]]
    notes: list[str]
    alarms: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    parts: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    path: str = ""
    stages: list["RunFiles"] = field(default_factory=list["RunFiles"])

    def series(self, metric: str, kind: str) -> Series:
        """Steps and values of a metric in lines of one kind; only finite numbers are taken."""
        lines = self.lines(kind, metric)
        return [line["step"] for line in lines], [line[metric] for line in lines]

    def lines(self, kind: str, *metrics: str) -> list[dict[str, Any]]:
        """The lines of one kind in which all of these metrics are finite numbers."""
        lines = [line for line in self.metrics if line["kind"] == kind]
        return [line for line in lines if all(is_number(line.get(name)) for name in metrics)]

    def setting(self, section: str, key: str, kind: type) -> Any:
        """A setting of config.toml; None if it is not there, or of another type."""
        table = self.config.get(section)
        value = table.get(key) if isinstance(table, dict) else None
        return value if isinstance(value, kind) else None

    def last_step(self) -> int:
        """The newest step in metrics.jsonl; 0 if there is none."""
        return max((line["step"] for line in self.metrics), default=0)

    def stage_rows(self) -> list[dict[str, Any]]:
        """Of a list, held-out numbers with a `name`: of the base, and of each stage so far."""
        if self.result.get("stages"):
            return self.result["stages"]
        rows: list[dict[str, Any]] = []
        for stage in self.stages:
            lines = [
                {key: one for key, one in line.items() if is_number(one)}
                for line in stage.lines("eval", "accuracy")
            ]
            if lines and not rows:
                rows.append(lines[0] | {"name": "base"})
            if lines and lines[-1]["step"]:
                rows.append(lines[-1] | {"name": stage.name})
        return rows if len(rows) > 1 else []


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number that can be drawn."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -_LARGEST <= value <= _LARGEST


def read_run(folder: Path) -> RunFiles:
    """Reads what a run has written so far.

    Raises:
      InputError: the folder does not exist or holds no run, or a file cannot be read.
    """
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {why}. {_NAME_ONE}")
    texts = _texts(folder)
    if not texts:
        raise InputError(f"{folder}: holds none of {', '.join(_MISSING)}. {_NAME_ONE}")
    run = _read(folder, texts)
    known = {"stage", "stages"} & run.config.keys() or _OF_A_RESULT & run.result.keys()
    if not (known or run.metrics or run.completions or run.facts or run.parts):
        raise InputError(
            f"{folder}: holds {', '.join(texts)}, and nothing that a run writes in there. "
            f"{_NAME_ONE}"
        )
    return run


def _read(folder: Path, texts: dict[str, str]) -> RunFiles:
    """What is there, from the texts of those files of `_MISSING` that are."""
    notes: list[str] = []

    def parsed(name: str, text: str, parse: Callable[[str], Any], empty: Any) -> Any:
        try:
            value = parse(text)
            if not isinstance(value, type(empty)):
                raise ValueError(f"a {type(value).__name__}")
            return value
        except (ValueError, RecursionError) as error:
            notes.append(f"{name} is damaged, and passed over ({visible(str(error))[:80]}).")
            return empty

    def lines(name: str, good: Callable[[Any], bool]) -> list[dict[str, Any]]:
        text = texts.get(name, "")
        kept = [one for one in _objects(text) if good(one)]
        whole = text.rpartition("\n")[0] if text else ""  # a killed run may cut the last line off
        last = text[len(whole) :].strip()
        written = sum(1 for line in whole.split("\n") if line.strip()) + _is_json(last)
        if damaged := written - len(kept):
            are = "line is" if damaged == 1 else "lines are"
            notes.append(f"{name}: {damaged:,} {are} damaged, and passed over.")
        return kept

    config_text = texts.get("config.toml", "")
    config = parsed("config.toml", config_text, tomllib.loads, {})
    elsewhere = _OF_STAGES if config.get("stages") else set[str]()
    needed = [name for name in _MISSING if name not in elsewhere | texts.keys()]
    notes[:0] = [f"No {name}: {_MISSING[name]}." for name in needed]
    facts = parsed("facts.json", _text(folder / "facts.json") or "[]", json.loads, [])
    result = parsed("result.json", texts.get("result.json", "{}"), json.loads, {})
    parts = parsed("parts.json", _text(folder / "parts.json") or "[]", json.loads, [])
    return RunFiles(
        name=folder.resolve().name,
        config_text=config_text,
        config=config,
        metrics=lines("metrics.jsonl", _is_line),
        completions=lines("completions.jsonl", _is_completion),
        result=_checked(result),
        facts=[(one[0], one[1]) for one in facts if _is_fact(one)],
        notes=notes,
        alarms=[one for one in _objects(_text(folder / "alarms.jsonl") or "") if _is_alarm(one)],
        parts=[one for one in parts if isinstance(one, dict)],
        path=str(folder),
        stages=[_read(one, texts) for one, texts in _begun(_stage_folders(folder, config))],
    )


_STAGE = re.compile(r"([1-9]\d*)-.+")  # 1-reconstruct


def _stage_folders(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The folders of a list's stages; none for a run of one stage."""
    if not config.get("stages"):
        return []
    named = [one for one in folder.iterdir() if _STAGE.fullmatch(one.name)]
    found = [one for one in named if not one.is_symlink()]  # which might lead back
    return sorted(found, key=lambda one: int(one.name.partition("-")[0]))


def _begun(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Folders with a file of a run, and the texts of those files."""
    for folder in folders:
        if texts := _texts(folder):
            yield folder, texts


def _texts(folder: Path) -> dict[str, str]:
    return {name: text for name in _MISSING if (text := _text(folder / name)) is not None}


def _text(path: Path) -> str | None:
    """A file's text, with U+FFFD for bytes that are none; None if there is no file."""
    try:
        return path.read_text("utf-8", errors="replace") if path.is_file() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error


def _objects(text: str) -> Iterator[Any]:
    """Yields each line's object; a last line that a killed run cut off is left out."""
    for line in text.split("\n"):  # no other separator ends a line of JSON
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def _is_json(line: str) -> bool:
    return any(True for _ in _objects(line))


def _is_line(line: Any) -> bool:
    """Whether an object has what every line of metrics has."""
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        return False
    step = line.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step <= _LAST_STEP


def _is_completion(line: Any) -> bool:
    """Whether an object has what every completion has; a reward may be missing."""
    if not _is_line(line) or not isinstance(line.get("parts", {}), dict):
        return False
    texts = all(isinstance(line.get(key), str) for key in ("id", "question", "completion"))
    return texts and is_number(line.get("tokens")) and "gold" in line


def _is_alarm(line: Any) -> bool:
    return _is_line(line) and all(isinstance(line.get(key), str) for key in ("name", "says"))


def _is_fact(fact: Any) -> bool:
    return isinstance(fact, list) and len(fact) == 2 and all(isinstance(one, str) for one in fact)


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """result.json without what is of a wrong type where a page would count with it."""
    kept = dict(result)
    for key in ("before", "after", "used_tokens", "programs"):
        if key in kept:
            table = kept[key] if isinstance(kept[key], dict) else {}
            kept[key] = {name: one for name, one in table.items() if is_number(one)}
    for key in ("seconds", "steps"):
        if key in kept and not is_number(kept[key]):
            del kept[key]
    if "stages" in kept:
        stages = kept["stages"] if isinstance(kept["stages"], list) else []
        named = [
            one for one in stages if isinstance(one, dict) and isinstance(one.get("name"), str)
        ]
        kept["stages"] = [
            {key: one for key, one in stage.items() if key == "name" or is_number(one)}
            for stage in named
        ]
    return kept
