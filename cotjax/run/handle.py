"""A run from Python: its numbers as arrays, its completions, and the student that it trained."""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

from cotjax.config import Config, load, stage_class, stage_configs, with_objects
from cotjax.config.reading import nearest
from cotjax.config.reference import ARGUMENTS
from cotjax.errors import InputError
from cotjax.remote.fetch import local_copy

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from cotjax.report.run_folder import RunFiles
    from cotjax.run.opened import OpenedModel


class Metrics:
    """Columns of numbers, one row a step.

    Args:
      rows: of metrics.jsonl, of one kind.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    @property
    def columns(self) -> list[str]:
        """The names, in the order in which a run began to write them."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        return [name for name in names if name not in ("step", "kind")]

    @property
    def steps(self) -> np.ndarray:
        """The training steps that were done at each row."""
        import numpy as np

        return np.array([row["step"] for row in self._rows], int)

    def __getitem__(self, column: str) -> np.ndarray:
        import numpy as np

        if column not in self.columns:
            close = f' Did you mean "{nearest(column, self.columns)}"?' if self.columns else ""
            raise InputError(f'metrics["{column}"]: there is no such column.{close}')
        values = [row.get(column) for row in self._rows]
        return np.array([float("nan") if one is None else one for one in values], float)

    def __contains__(self, column: object) -> bool:
        return column in self.columns

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Metrics({len(self)} rows: {', '.join(self.columns)})"

    def to_pandas(self) -> Any:
        """A DataFrame whose index is the step.

        Raises:
          InputError: pandas is not installed.
        """
        try:
            pandas: Any = importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise InputError("to_pandas needs pandas. Install it: pip install pandas") from error
        columns = {name: self[name] for name in self.columns}
        return pandas.DataFrame(columns, index=pandas.Index(self.steps, name="step"))


class Run:
    """A run folder: whole, going on, or stopped. Files are read when they are asked for.

    Args:
      folder: of the run.
      objects: what `cotjax.train` was given.
    """

    def __init__(self, folder: pathlib.Path, *, objects: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self._objects = objects or {}
        self._opened: OpenedModel | None = None

    def __repr__(self) -> str:
        return f'Run("{self.folder}")'

    @functools.cached_property
    def config(self) -> Config:
        """Every setting, as the run resolved it."""
        config = load(["--config", str(self.folder / "config.toml")])
        if config.stages:
            return with_objects(config, **self._objects)
        own = stage_class(config.stage)
        read = {name: one for name, one in self._objects.items() if own.reads_key(ARGUMENTS[name])}
        return with_objects(config, **read)

    @property
    def stages(self) -> tuple[Run, ...]:
        """The runs of a list's stages that have begun; empty for a single stage."""
        if not self.config.stages:
            return ()
        names = [f"{n}-{name}" for n, (name, _) in enumerate(stage_configs(self.config), 1)]
        folders = [self.folder / name for name in names]
        begun = [folder for folder in folders if (folder / "config.toml").is_file()]
        return tuple(Run(folder, objects=self._objects) for folder in begun)

    @property
    def metrics(self) -> Metrics:
        """The numbers of training steps; of a list, those of its stages one after the other."""
        return Metrics(self._rows("train"))

    @property
    def evaluations(self) -> Metrics:
        """The numbers of evaluations on held-out problems."""
        return Metrics(self._rows("eval"))

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        done = 0
        for run in self.stages or (self,):
            own = run.files.metrics
            rows += [row | {"step": row["step"] + done} for row in own if row["kind"] == kind]
            done += run.files.last_step()
        return rows

    @property
    def files(self) -> RunFiles:
        """What the folder holds now, as `cotjax.report` reads it."""
        from cotjax.report.run_folder import read_run

        return read_run(self.folder)

    @property
    def completions(self) -> list[dict[str, Any]]:
        """What the student wrote: id, question, completion, reward, … and when ("kind")."""
        return [row for run in self.stages or (self,) for row in run.files.completions]

    @property
    def result(self) -> dict[str, Any]:
        """What result.json says: held-out numbers before and after, seconds, steps and seed.

        Raises:
          InputError: the run has not ended.
        """
        path = self.folder / "result.json"
        if not path.is_file():
            raise InputError(
                f"{path}: is not there, the run is still going or was stopped. Wait, or continue "
                "it with --resume."
            )
        return json.loads(path.read_text("utf-8"))

    def generate(self, question: str, **settings: Any) -> str | list[str]:
        """What the student answers; see `cotjax.generate`. It is loaded once for all questions."""
        from cotjax.run.use import completions_of, open_to_generate

        step = newest_step(self.folder)
        if self._opened is None or self._opened.step != step:
            self._opened = open_to_generate(self)
        return completions_of(self._opened, question, settings)

    def evaluate(self, **settings: Any) -> dict[str, Any]:
        """The student's numbers on held-out problems; see `cotjax.evaluate`."""
        from cotjax.run.use import evaluate

        return evaluate(self, **settings)

    def plot(self) -> Figure:
        """Accuracy against length, and the curves of training; see `cotjax.plot`."""
        from cotjax.run.use import plot

        return plot(self)


def open_run(folder: str | pathlib.Path, *, weights: bool = True) -> Run:
    """The run in a folder: one that has ended, goes on, or was stopped.

    Args:
      folder: of the run, or its URL in a bucket, which is fetched.
      weights: whether its newest checkpoint is fetched too.

    Raises:
      InputError: the folder is none of a run.
    """
    folder = local_copy(folder, key="", weights=weights)
    if not (folder / "config.toml").is_file():
        why = "holds no config.toml" if folder.is_dir() else "there is no such folder"
        raise InputError(f"{folder}: {why}. Name the folder of a run, runs/NAME.")
    return Run(folder)


def newest_step(folder: pathlib.Path) -> int:
    """The step of the newest checkpoint of a run, or of a list's newest stage; 0 if none."""
    from cotjax.run.opened import newest_stage

    steps = newest_stage(folder).glob("checkpoints/*")
    return max((int(path.name) for path in steps if path.name.isdigit()), default=0)
