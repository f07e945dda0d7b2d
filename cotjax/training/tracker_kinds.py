"""The trackers that `track` names, each behind the same few methods. Packages load on first use.

A run that was killed takes the steps since its last checkpoint again. None of these shows them
twice: TensorBoard forgets those that it was told; the others, which can forget none, are told whole
steps (`WholeSteps`), and none that they have. The folder `tracked` of a run says which these are.
"""

import importlib
import json
import netrc
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cotjax.errors import visible
from cotjax.storage import write_whole
from cotjax.training.trackers import COLUMNS, Numbers, Open, TrackedRun

SECONDS = 15  # that Weights & Biases may take to answer at first


class WholeSteps:
    """Tells each step once and whole: when the next one begins, or at the end.

    A run that is killed within a step, as while it evaluates, has told nothing of it.

    Args:
      tell: is told a step and everything of it.
      first: steps before it are known already.
    """

    def __init__(self, tell: Callable[[int, dict[str, Any]], None], first: int) -> None:
        self._tell, self._first = tell, first
        self._step, self._values = 0, dict[str, Any]()

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Something of a step."""
        if step < self._first:
            return
        if step != self._step:
            self.end()
        self._step = step
        self._values |= values

    def end(self) -> None:
        """The last step is whole."""
        values, self._values = self._values, {}
        if values:
            self._tell(self._step, values)


class TrackerState:
    """What a tracker has to know when its run goes on, in the run's folder.

    Args:
      run: that is tracked.
      name: of the tracker.
    """

    def __init__(self, run: TrackedRun, name: str) -> None:
        self._path = run.folder / "tracked" / f"{name}.json"

    def read(self) -> dict[str, Any]:
        """What was written last; nothing of a new run, or if it is damaged."""
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, **known: Any) -> None:
        """Keeps it, in one piece."""
        self._path.parent.mkdir(exist_ok=True)
        write_whole(self._path, json.dumps(known) + "\n")


class Trackio:
    """A trackio run: in its own folder on this machine, or where TRACKIO_SPACE_ID says.

    trackio finds a run by its name, the youngest of several. One that goes on finds another run
    than its own if that has the same name and began later; it takes a name of its own then.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._trackio: Any = importlib.import_module("trackio")
        state = TrackerState(run, "trackio")
        known = state.read() if run.step is not None else {}
        self._run = self._begin(run, known.get("name", run.name))
        if known and self._first and self._run.id != known.get("id"):
            self._run.finish()
            self._run = self._begin(run, f"{run.name}-{run.id}")
        state.write(name=self._run.name, id=self._run.id)
        self._steps = WholeSteps(lambda step, values: self._run.log(values, step=step), self._first)

    def _begin(self, run: TrackedRun, name: str) -> Any:
        return self._trackio.init(
            project=run.project,
            name=name,
            group=run.group or None,
            config=dict(run.config),
            resume="never" if run.step is None else "allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    @property
    def _first(self) -> int:
        """The step behind the last one that trackio, or its server, has of the run."""
        return getattr(self._run, "_next_step", 0)

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        self._steps.add(step, values)

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """See `Tracker`."""
        table = self._trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._steps.add(step, {"completions": table})

    def keep_report(self, path: pathlib.Path) -> None:
        """See `Tracker`."""
        self._run.log_artifact(str(path), name=f"report-{self._run.name}", type="report")

    def end(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._steps.end()
        self._run.finish()


class TensorBoard:
    """Event files in the run folder's `tensorboard`, which holds the report beside it."""

    def __init__(self, run: TrackedRun) -> None:
        boards: Any = importlib.import_module("tensorboardX")
        # Of a killed run, later steps are taken again: those that are there count no more.
        purge = None if run.step is None else run.step + 1
        self._writer = boards.SummaryWriter(
            str(run.folder / "tensorboard"),
            purge_step=purge,
            filename_suffix=f".{purge or 0}",  # a file's own name counts seconds
        )
        config = (run.folder / "config.toml").read_text("utf-8")
        self._writer.add_text("config", f"```\n{config}\n```", run.step or 0)

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # those before a checkpoint are not told again

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
    """A run of Weights & Biases; without an API key it stays in the run folder's `wandb`.

    Its server leaves out steps that it has. `wandb sync` of a run without a server gives such steps
    other numbers, and all that follow, so that they must not be told: the last one is kept.
    """

    def __init__(self, run: TrackedRun) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        known = "WANDB_MODE" in os.environ or _has_key()
        alone = not known or os.environ.get("WANDB_MODE") == "offline"
        more = {"quiet": True} if alone else {}  # no summary behind that of the run
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
                init_timeout=SECONDS,
                console="off",
                x_disable_stats=True,
                disable_git=True,
                **more,
            ),
        )
        self._state = TrackerState(run, "wandb")
        told = self._state.read().get("step", -1) if run.step is not None else -1
        self._steps = WholeSteps(self._log, told + 1 if self._run.offline else self._run.step)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._state.write(step=step)  # first: a step that is missing is better than all shifted
        self._run.log(values, step=step, commit=True)

    def write(self, step: int, values: Numbers) -> None:
        """See `Tracker`."""
        self._steps.add(step, values)

    def write_completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        """See `Tracker`."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._steps.add(step, {"completions": table})

    def keep_report(self, path: pathlib.Path) -> None:
        """See `Tracker`."""
        artifact = self._wandb.Artifact(f"report-{self._run.id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._steps.end()
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
