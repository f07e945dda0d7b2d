"""A run folder as read, at any moment of the run."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotjax.errors import InputError
from cotjax.storage import rows_of

Series = tuple[list[int], list[float]]

_MISSING = {
    "config.toml": "the settings are not shown",
    "metrics.jsonl": "curves begin with the first step",
    "completions.jsonl": "there are no completions to show",
    "result.json": "the run is still going or was stopped; the comparison before and after "
    "training comes with its end",
}


@dataclass(frozen=True)
class RunFiles:
    """What is there, and a sentence for what is not.

    Attributes:
      name: the folder's name.
      config_text: config.toml as it stands; empty if missing.
      config: the same, parsed.
      metrics: the objects of metrics.jsonl.
      completions: the objects of completions.jsonl.
      result: result.json.
      facts: of facts.json, (label, form) of settings that the stage shows.
      notes: one sentence for each file that is missing.
    """

    name: str
    config_text: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    result: dict[str, Any]
    facts: list[tuple[str, str]]
    notes: list[str]

    def series(self, metric: str, kind: str) -> Series:
        """Steps and values of a metric in lines of one kind; lines without it are skipped."""
        lines = [line for line in self.metrics if line["kind"] == kind]
        lines = [line for line in lines if line.get(metric) is not None]
        return [line["step"] for line in lines], [line[metric] for line in lines]

    def last_step(self) -> int:
        """The newest step in metrics.jsonl; 0 if there is none."""
        return max((line["step"] for line in self.metrics), default=0)


def read_run(folder: Path) -> RunFiles:
    """Reads what a run has written so far.

    Raises:
      InputError: the folder does not exist or holds no file of a run.
    """
    there = [name for name in _MISSING if (folder / name).is_file()]
    if not there:
        raise InputError(
            f"{folder}: holds none of {', '.join(_MISSING)}. Name the folder of a run, runs/NAME."
        )
    notes = [f"No {name}: {what}." for name, what in _MISSING.items() if name not in there]
    config_text = _text(folder / "config.toml")
    return RunFiles(
        name=folder.resolve().name,
        config_text=config_text,
        config=_parsed(tomllib.loads, config_text, {}, "config.toml", notes),
        metrics=rows_of(folder / "metrics.jsonl"),
        completions=rows_of(folder / "completions.jsonl", needs=()),
        result=_parsed(json.loads, _text(folder / "result.json") or "{}", {}, "result.json", notes),
        facts=[
            tuple(one)
            for one in _parsed(json.loads, _text(folder / "facts.json") or "[]", [], "", notes)
        ],
        notes=notes,
    )


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _parsed(read: Callable[[str], Any], text: str, empty: Any, name: str, notes: list[str]) -> Any:
    """What a text says; nothing, and a note, if it is damaged."""
    try:
        return read(text)
    except ValueError:
        if name:
            notes.append(f"{name} is damaged: {_MISSING[name]}.")
        return empty
