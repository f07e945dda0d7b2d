"""Runs that take seconds, each a process of its own, and what tells two of them apart.

Processes are forked from one that has imported everything and computed nothing, so that a run does
not import JAX anew; and all but the undisturbed ones leave the figures of the report out. Settings,
student and data are those of the tests.
"""

import atexit
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cotjax.storage import rows_of
from cotjax.train import main as train
from tests import test_distill_run, test_train
from tests.stages import test_bridge
from tests.test_train import checkpoint, lines, without_times

LONGEST = 3600.0  # seconds that a process may take
POLL = 0.005  # seconds between looks at a run's folder
NAME = "run"  # of every run; what differs is where it lies
STAGES = ("sft", "reconstruct", "grpo", "rft", "rewrite", "distill", "bridge")
SMALL = ("--eval.problems=2", "--eval.samples=0", "--eval.every=0", "--checkpoint.keep=4")
ONE = ("--steps=6", "--checkpoint.every=2")
# Steps and checkpoints of a run that is cut off: it ends in `CUT_AT`, with those before it.
CUT_AT, CUT_AT_OF_LIST = 5, 3
TIMES = ("seconds", "name", "programs", "parts")  # of result.json, no two runs have the same
FORK = multiprocessing.get_context("fork")
Call = Callable[[], int]


@dataclasses.dataclass(frozen=True)
class Ran:
    """What became of a process.

    Attributes:
      status: of its end; negative is the signal that ended it.
      said: everything that it printed.
      seconds: that it took.
    """

    status: int
    said: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line that it printed."""
        return next((line for line in reversed(self.said.splitlines()) if line.strip()), "")

    def line_with(self, *words: str) -> str:
        """The first line that has one of some words, else nothing."""
        found = (one for one in self.said.splitlines() if any(word in one for word in words))
        return next(found, "").strip()


class Process:
    """A forked process that calls something, whose output goes to a file.

    Args:
      call: what it does; gives its exit status.
      out: file of its output.
    """

    def __init__(self, call: Call, out: Path) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        self._out, self._began = out, time.monotonic()
        self.process = FORK.Process(target=_call, args=(call, out))
        self.process.start()

    @property
    def pid(self) -> int:
        """Of the system."""
        assert self.process.pid is not None
        return self.process.pid

    def lives(self, seconds: float) -> bool:
        """Waits so long, or to its end; whether it still runs."""
        self.process.join(seconds)
        return self.process.exitcode is None

    @property
    def used(self) -> float:
        """Seconds that it has computed, infinite once it is gone; where none knows, has been there.

        Moments of a run are told in these: a machine that does other things too is slower.
        """
        if not Path("/proc/self").is_dir():
            return time.monotonic() - self._began
        try:
            rest = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return math.inf
        return (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")

    def works(self, seconds: float) -> bool:
        """Waits until it has computed for so long, or to its end; whether it still runs."""
        since = self.used
        while self.used - since < seconds and self.lives(POLL):
            pass
        return self.lives(0)

    def send(self, number: int) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    def end(self) -> Ran:
        """Waits for its end, and ends it where that takes too long."""
        if self.lives(LONGEST):
            self.send(signal.SIGKILL)
            self.process.join()
        seconds = time.monotonic() - self._began
        said = self._out.read_text("utf-8", "replace")
        return Ran(self.process.exitcode or 0, said, seconds)


def _call(call: Call, out: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process that was not forked
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore
    try:
        status = call()
    finally:  # in the interpreter's order: TensorStore's goodbye would leave threads waiting
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()  # which a forked process leaves out; they end what it has started
    sys.exit(status)


@dataclasses.dataclass(frozen=True)
class World:
    """A student, teachers, data, and an undisturbed run of each stage.

    Args:
      folder: that holds them, and what is done with them.
    """

    folder: Path

    def argv(self, stage: str, output: Path, *more: str) -> list[str]:
        """Flags of a stage's run."""
        own = () if stage == "bridge" else ONE
        return [*self._flags[stage], *SMALL, *own, f"--output={output}", *more]

    @functools.cached_property
    def _flags(self) -> dict[str, list[str]]:
        file = self.folder / "flags.json"
        if not file.exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # what is left of half a world
            ran = self.start(lambda: _make(self.folder, file), self.folder).end()
            assert ran.status == 0, ran.said
        return json.loads(file.read_text())

    def start(self, call: Call, folder: Path, name: str = "out.txt") -> Process:
        """Starts a process whose output goes to a file of a folder."""
        return Process(call, folder / name)

    def begin(
        self, stage: str, folder: Path, *more: str, around: Any = None, aside: Path | None = None
    ) -> Process:
        """Starts a run of a stage in a folder.

        Args:
          stage: which.
          folder: `--output` of the run.
          *more: further flags.
          around: makes a context that plants something.
          aside: folder of what is kept about it; None is the run's.
        """
        argv = self.argv(stage, folder, *more)
        return self.start(lambda: _train(argv, folder, aside, around), aside or folder)

    def go_on(self, folder: Path, *more: str, aside: Path | None = None) -> Ran:
        """Goes on with a run by its name alone, as its messages advise."""
        argv = ["--resume", f"--name={NAME}", f"--output={folder}", *more]
        call = functools.partial(_train, argv, folder, aside)
        return self.start(call, aside or folder, "resumed.txt").end()

    def after_a_stop(self, stage: str, folder: Path, aside: Path | None = None) -> Ran:
        """Goes on with a run, or begins it again if it had not begun."""
        if (folder / NAME / "config.toml").is_file():
            return self.go_on(folder, aside=aside)
        call = functools.partial(_train, self.argv(stage, folder), folder, aside)
        return self.start(call, aside or folder, "resumed.txt").end()

    def whole(self, stage: str) -> "Whole":
        """The undisturbed run of a stage, made at the first call: twice, to be timed and compared.

        The first compiles; the second finds its programs, as all others do.
        """
        file = self.folder / "whole" / f"{stage}.json"
        if not file.exists():
            states, windows, seconds = [], {}, 0.0
            for name in ("first", "second"):
                folder = self.folder / "whole" / f"{stage}-{name}"
                shutil.rmtree(folder, ignore_errors=True)
                process = self.begin(stage, folder)
                windows, seconds = _windows(process, folder)
                ran = process.end()
                assert ran.status == 0, ran.said
                states.append(state_of(folder))
            assert not differing(*states), (stage, differing(*states))
            row = {"folder": str(folder), "seconds": seconds, "windows": windows}
            file.write_text(json.dumps(row | {"state": states[1]}))
        row = json.loads(file.read_text())
        return Whole(Path(row["folder"]), row["seconds"], row["windows"], row["state"])

    def cut_off(self, stage: str) -> Path:
        """The folder of a run that was killed a step after its newest checkpoint, made once."""
        folder = self.folder / "cut" / stage
        if not (folder / "is_made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            last = {"bridge": "3-rewrite"}.get(stage, NAME)
            step = CUT_AT_OF_LIST if stage == "bridge" else CUT_AT
            ran = self.begin(stage, folder, around=functools.partial(_killing, last, step)).end()
            assert ran.status == -signal.SIGKILL, ran.said
            (folder / "is_made").touch()
        return folder


@dataclasses.dataclass(frozen=True)
class Whole:
    """An undisturbed run.

    Attributes:
      folder: `--output` of it.
      seconds: that it computed from its start to its last result.
      windows: the same from the first step to the result, for each part by its folder.
      state: its `state_of`.
    """

    folder: Path
    seconds: float
    windows: dict[str, float]
    state: dict[str, Any]


def _windows(process: Process, folder: Path) -> tuple[dict[str, float], float]:
    """`Whole.windows` and `Whole.seconds` of a process, which is waited for."""
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    used = 0.0
    while process.lives(POLL):
        used = process.used
        # Not below these: checkpoints come and go while they are being written.
        for part in (folder / NAME, *folder.glob(f"{NAME}/[0-9]*-*")):
            for name, found in (("digests.jsonl", began), ("result.json", ended)):
                if (part / name).exists():
                    found.setdefault(str(part.relative_to(folder)), used)
    windows = {part: ended.get(part, used) - since for part, since in began.items()}
    return windows, max(ended.values(), default=used)


def _make(folder: Path, file: Path) -> int:
    trained = test_train.World(folder)
    flags = {stage: trained.flags(stage, NAME) for stage in test_train.STAGES}
    flags["distill"] = test_distill_run.World(folder).flags(NAME, *test_distill_run.ADAPTIVE)
    bridge = folder / "bridge"
    bridge.mkdir()
    flags["bridge"] = [*test_bridge.World(bridge).argv(NAME), "--checkpoint.every=1"]
    file.write_text(json.dumps(flags))
    return 0


def _train(argv: Sequence[str], folder: Path, aside: Path | None = None, around: Any = None) -> int:
    """Trains, and keeps digests of what came of it where it ended well."""
    if around is None:
        status = train(argv)
    else:
        with around():
            status = train(argv)
    if status == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what reads checkpoints here tells nobody
        ((aside or folder) / "state.json").write_text(json.dumps(_digests(folder / NAME)))
    return status


def _killing(last: str, step: int) -> Any:
    """A context in which a run is killed in a step, with all checkpoints before it on the disk."""
    import pytest

    from cotjax.training.checkpoint import Checkpoints
    from cotjax.training.metrics import MetricsWriter

    patch = pytest.MonkeyPatch()
    save, write = Checkpoints.save, MetricsWriter.write_digests

    def save_and_wait(self, *arguments):
        save(self, *arguments)
        self._manager.wait_until_finished()

    def write_and_die(self, done, work):
        found = write(self, done, work)
        if self._digests.parent.name == last and done == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    patch.setattr(Checkpoints, "save", save_and_wait)
    patch.setattr(MetricsWriter, "write_digests", write_and_die)
    return patch.context()


# What a run has come to.


def parts_of(run: Path) -> list[Path]:
    """The folders of a run that train: itself, or the stages of a list in order."""
    return sorted(run.glob("[0-9]*-*/")) or [run]  # not bad_step-3


def state_of(folder: Path) -> dict[str, Any]:
    """The digests that the last process of a case left, by stage; nothing if none ended well."""
    file = folder / "state.json"
    return json.loads(file.read_text()) if file.exists() else {}


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what differs between two of `state_of`."""
    stages = sorted({*one} | {*other})
    return [
        f"{stage}: {name}" if len(stages) > 1 else name
        for stage in stages
        for name in sorted({*one.get(stage, {})} | {*other.get(stage, {})})
        if one.get(stage, {}).get(name) != other.get(stage, {}).get(name)
    ]


def steps_in(run: Path) -> dict[str, int]:
    """The last training step that each unfinished part of a run wrote down."""
    found: dict[str, int] = {}
    for folder in parts_of(run):
        if (file := folder / "metrics.jsonl").is_file() and not (folder / "result.json").exists():
            rows = [row for row in rows_of(file) if row["kind"] == "train"]
            found[folder.name] = max((row["step"] for row in rows), default=0)
    return found


def lost_steps(run: Path, before: dict[str, int]) -> int:
    """The steps that a resumed run took again, of those of `steps_in`."""
    lost = 0
    for name, step in before.items():
        folder = next(one for one in parts_of(run) if one.name == name)
        lost += max(step - json.loads((folder / "parts.json").read_text())[-1]["first_step"], 0)
    return lost


def _digests(run: Path) -> dict[str, Any]:
    return {folder.name: _digests_of(folder) for folder in parts_of(run)}


def _digests_of(run: Path) -> dict[str, str]:
    """Digests of a run's newest checkpoint and of its files, but for what tells the time."""
    import jax

    step = max(int(one.name) for one in (run / "checkpoints").iterdir() if one.name.isdigit())
    state, place = checkpoint(run, step)
    arrays = {"parameters": state.pop("params"), "other state": state}
    found = {}
    for name, tree in arrays.items():
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
        found[name] = digest.hexdigest()
    result = json.loads((run / "result.json").read_text())
    texts = {
        "step": step,
        "place in the data": place,
        "metrics.jsonl": without_times(run),
        "completions.jsonl": lines(run / "completions.jsonl"),
        "digests.jsonl": lines(run / "digests.jsonl"),
        "result.json": {key: value for key, value in result.items() if key not in TIMES},
    }
    return found | {name: _sha256(json.dumps(text)) for name, text in texts.items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
