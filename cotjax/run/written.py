"""What a run wrote of its steps, as far as it is whole; nothing is changed in its folder."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from cotjax.config import Config, from_table, name_of, stage_configs
from cotjax.config.reading import read_toml
from cotjax.errors import InputError
from cotjax.interfaces import Step
from cotjax.run.parts import Part, earlier_parts, part_of
from cotjax.storage import rows_of
from cotjax.training.digests import digests
from cotjax.training.metrics import plain_number

Row = dict[str, Any]
FILES = "metrics.jsonl", "digests.jsonl", "completions.jsonl"


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What is known of a step, from a run's files or computed again.

    Attributes:
      metrics: of training, by name; None if there are none.
      digests: see `cotjax.training.digests`; None if there are none.
      completions: rows of completions.jsonl.
    """

    metrics: Row | None
    digests: Row | None
    completions: list[Row]

    @classmethod
    def of(cls, metrics: Mapping[str, float], work: Step) -> "StepRecord":
        """What a run would write of a step."""
        plain = {name: plain_number(value) for name, value in metrics.items()}
        rows = json.loads(json.dumps([work.completions, digests(work)]))
        return cls(plain, rows[1], rows[0])


class WrittenRun:
    """The files of a run that say what its steps gave.

    Args:
      folder: of a single stage's run, which may go on.

    Raises:
      InputError: it holds a list of stages; config.toml or parts.json is missing or damaged.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.table = read_toml(str(folder / "config.toml"))
        if self.table.get("stages"):
            raise InputError(_names_stages(folder, self.config(self.table)))
        self.parts = earlier_parts(folder)
        metrics, digests, completions = (_by_step(folder / name) for name in FILES)
        self._metrics, self._completions = metrics, completions
        self._digests = {
            step: [row for row in rows if _is_digests(row)] for step, rows in digests.items()
        }

    @property
    def stage(self) -> str:
        """Its stage's name."""
        return name_of(self.table.get("stage", Config.stage))

    @property
    def last(self) -> int:
        """The newest step of which something is written."""
        return max((*self._metrics, *self._digests), default=0)

    def step(self, step: int) -> StepRecord:
        """What the run wrote of a step, from 1."""
        first: Callable[[list[Row]], Row | None] = lambda rows: rows[-1] if rows else None  # noqa: E731
        return StepRecord(
            first(self._metrics.get(step, [])),
            first(self._digests.get(step, [])),
            self._completions.get(step, []),
        )

    def part(self, step: int) -> Part:
        """The part of the run that took a step."""
        return part_of(self.parts, step)

    def config_at(self, step: int) -> Config:
        """The settings with which a step was taken: what later parts changed is undone."""
        table = json.loads(json.dumps(self.table))
        for part in reversed(self.parts):
            if part is self.part(step):
                break
            for key, (old, _) in part.get("changed", {}).items():
                *sections, name = key.split(".")
                inner = table
                for section in sections:
                    inner = inner.setdefault(section, {})
                inner[name] = old
        return self.config(table)

    def config(self, table: Row) -> Config:
        """A table of settings as a config."""
        return from_table(table, str(self.folder / "config.toml"))

    def check_step(self, step: int) -> None:
        """Refuses a step that the run has not taken.

        Raises:
          InputError: names those that there are.
        """
        if not self.last:
            raise InputError(
                f"{self.folder}: no step is written there, in metrics.jsonl or digests.jsonl. "
                "Wait until the run has taken one, or name another run."
            )
        if not 1 <= step <= self.last:
            raise InputError(
                f"--step {step}: {self.folder} has the steps 1 to {self.last}. Name one of them."
            )


def _names_stages(folder: pathlib.Path, config: Config) -> str:
    names = [f"{n}-{name}" for n, (name, _) in enumerate(stage_configs(config), 1)]
    begun = [str(folder / name) for name in names if (folder / name / "config.toml").is_file()]
    return (
        f"{folder}: is a list of stages, and each counts its own steps. Name one of "
        f"{', '.join(begun) or 'its folders, once it has begun'}."
    )


def _by_step(path: pathlib.Path) -> dict[int, list[Row]]:
    """The rows of training steps, without step and kind."""
    found: dict[int, list[Row]] = {}
    for row in rows_of(path):
        step, kind = row.pop("step"), row.pop("kind")
        if kind == "train" and type(step) is int:
            found.setdefault(step, []).append(row)
    return found


_SEQUENCE = re.compile(r"[0-9a-f]{8}\.[1-9][0-9]*\.[A-Za-z0-9+-]*")


def _is_digests(row: Row) -> bool:
    """Whether a line of digests.jsonl is as a run writes it."""
    batch, groups = row.get("batch"), ("records", "prompts", "completions", "rewards")
    if not isinstance(batch, dict) or not _are_sequences(row.get("rows", [])):
        return False
    if not any(name in row for name in groups):
        return True
    records, prompts, completions, rewards = (_list(row.get(name)) for name in groups)
    return (
        all(len(one) == 2 and all(isinstance(x, str) for x in one) for one in map(_list, records))
        and _are_sequences(prompts)
        and all(map(_are_sequences, completions))
        and all(isinstance(x, int | float) for one in map(_list, rewards) for x in one)
        and [len(_list(one)) for one in completions] == [len(_list(one)) for one in rewards]
        and len(records) == len(prompts) == len(completions) > 0
    )


def _list(value: Any) -> Sequence[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _are_sequences(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, str) and _SEQUENCE.fullmatch(one) for one in cast(list[Any], value)
    )
