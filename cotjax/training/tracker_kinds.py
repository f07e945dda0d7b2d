"""The trackers that `track` names, each behind the same few methods. Packages load on first use."""

import importlib
import netrc
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from cotjax.errors import visible
from cotjax.training.trackers import COLUMNS, Numbers, Open, TrackedRun

SECONDS = 15  # that Weights & Biases may take to answer at first


class Trackio:
    """A trackio run: in its own folder on this machine, or where TRACKIO_SPACE_ID says."""

    def __init__(self, run: TrackedRun) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        self._run = self._trackio.init(
            project=run.project,
            name=run.name,
            group=run.group or None,
            config=dict(run.config),
            resume="never" if run.step is None else "allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        self._run.log(values, step=step)

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """See `Tracker`."""
        table = self._trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def keep_report(self, path: pathlib.Path) -> None:
        """See `Tracker`."""
        self._run.log_artifact(str(path), name=f"report-{self._run.name}", type="report")

    def end(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish()


class TensorBoard:
    """Event files in the run folder's `tensorboard`, which holds the report beside it."""

    def __init__(self, run: TrackedRun) -> None:
        boards: Any = importlib.import_module("tensorboardX")
        # Of a killed run, later steps are taken again: those that are there count no more.
        purge = run.step + 1 if run.step else None
        self._writer = boards.SummaryWriter(
            str(run.folder / "tensorboard"),
            purge_step=purge,
            filename_suffix=f".{run.step or 0}",  # a file's own name counts seconds
        )
        config = (run.folder / "config.toml").read_text("utf-8")
        self._writer.add_text("config", f"```\n{config}\n```", run.step or 0)

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """See `Tracker`."""
        lines = [COLUMNS, ["---"] * len(COLUMNS), *([_cell(one) for one in row] for row in rows)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        self._writer.add_text("completions", text, step)

    def keep_report(self, path: pathlib.Path) -> None:
        """See `Tracker`."""
        self._writer.add_text("report", f"The page of this run: {path}", 0)

    def end(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; without an API key it stays in the run folder's `wandb`."""

    def __init__(self, run: TrackedRun) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        known = "WANDB_MODE" in os.environ or _has_key()
        self._run = self._wandb.init(
            project=run.project,
            name=run.name,
            group=run.group or None,
            id=run.id,
            config=dict(run.config),
            resume="allow",
            dir=str(run.folder),
            mode=None if known else "offline",
            settings=self._wandb.Settings(
                init_timeout=SECONDS, console="off", x_disable_stats=True, disable_git=True
            ),
        )
        self._first = self._run.step  # a resumed run has the steps before it already

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        if step >= self._first:
            self._run.log(values, step=step)

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """See `Tracker`."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        if step >= self._first:
            self._run.log({"completions": table}, step=step)

    def keep_report(self, path: pathlib.Path) -> None:
        """See `Tracker`."""
        artifact = self._wandb.Artifact(f"report-{self._run.id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))


def _has_key() -> bool:
    """Whether Weights & Biases finds who logs; it would ask the keyboard otherwise."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urllib.parse.urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    try:
        file = os.environ.get("NETRC")
        return netrc.netrc(file).authenticators(host.hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _cell(value: Any) -> str:
    """A value in a Markdown table."""
    text = visible("" if value is None else str(value)).replace("|", "\\|")
    return text.replace("\n", "<br>")


# By name in `track`.
KINDS: dict[str, Open] = {"trackio": Trackio, "tensorboard": TensorBoard, "wandb": Wandb}
