"""A run folder as read, at any moment of the run."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotjax.errors import InputError

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
    texts = {
        name: (folder / name).read_text("utf-8") for name in _MISSING if (folder / name).is_file()
    }
    if not texts:
        raise InputError(
            f"{folder}: holds none of {', '.join(_MISSING)}. Name the folder of a run, runs/NAME."
        )
    config_text = texts.get("config.toml", "")
    return RunFiles(
        name=folder.resolve().name,
        config_text=config_text,
        config=tomllib.loads(config_text),
        metrics=list(_objects(texts.get("metrics.jsonl", ""))),
        completions=list(_objects(texts.get("completions.jsonl", ""))),
        result=json.loads(texts.get("result.json", "{}")),
        facts=[tuple(one) for one in json.loads(_text(folder / "facts.json") or "[]")],
        notes=[f"No {name}: {what}." for name, what in _MISSING.items() if name not in texts],
    )


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yields each line's object; a last line that a killed run cut off is left out."""
    for line in text.split("\n"):  # no other separator ends a line of JSON
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
