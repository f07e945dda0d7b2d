"""The real packages, offline: numbers, config, tables and reports arrive; a resumed run goes on."""

import os
import sqlite3
import struct
import subprocess
import sys

import pytest

from cotjax.training.tracker_kinds import KINDS, TensorBoard, Wandb
from cotjax.training.trackers import COLUMNS, TrackedRun

TABLE = [["before", "a/1", "Why|so?\nNow", "7", "7\x1b[2J", 1.0, 0.5, 2, "eos"]]


def make_run(folder, step=None):
    (folder / "config.toml").write_text("seed = 1\n")
    (folder / "report.html").write_text("<h1>Hello</h1>")
    config = {"seed": 1, "rollout": {"group_size": 4}}
    return TrackedRun("cotjax-test", "short", "", "abc123", folder, config, step)


def tell(tracker, run, steps):
    for step in steps:
        tracker.write(step, {"train/loss": 1.0 / (1 + step)})
    tracker.write_completions(steps[-1], TABLE)
    tracker.keep_report(run.folder / "report.html")
    tracker.end(failed=False)


def test_the_kinds_are_the_names_of_the_config():
    from typing import get_args

    from cotjax.config.ranges import TrackerName
    from cotjax.run.early import TRACKERS

    assert KINDS.keys() == TRACKERS.keys() == {*get_args(TrackerName)}
    assert len(COLUMNS) == len(TABLE[0])


def records(data):
    """Of a TFRecord file: length, checksum, bytes, checksum, again and again."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield data[place + 12 : place + 12 + length]
        place += length + 16


def test_tensorboard_has_each_step_once_and_text(tmp_path):
    pytest.importorskip("tensorboardX", reason="needs the [track] extra")
    from tensorboardX.proto.event_pb2 import Event

    first = make_run(tmp_path)
    tell(TensorBoard(first), first, [1, 2, 3])
    again = make_run(tmp_path, step=2)  # killed after step 3, saved after step 2
    tell(TensorBoard(again), again, [3, 4])
    events, texts, purged = [], {}, []
    for path in sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime):
        for record in records(path.read_bytes()):
            event = Event.FromString(record)
            if event.session_log.status == 1:  # what was told of this step and later counts no more
                purged.append(event.step)
                events = [one for one in events if one[0] < event.step]
            for value in event.summary.value:
                if value.tag == "train/loss":
                    events.append((event.step, value.simple_value))
                else:
                    texts[value.tag] = value.tensor.string_val[0].decode()
    assert purged == [3]
    assert events == [(step, pytest.approx(1 / (1 + step))) for step in (1, 2, 3, 4)]
    completions = next(text for tag, text in texts.items() if tag.startswith("completions"))
    assert "| before | a/1 | Why\\|so?<br>Now | 7 | 7\\x1b[2J | 1.0 |" in completions
    assert any("seed = 1" in text for text in texts.values())
    assert any("report.html" in text for text in texts.values())


TRACKIO = """
import pathlib, sys
from cotjax.training.tracker_kinds import Trackio
from tests.training.test_tracker_kinds import make_run, tell
folder = pathlib.Path(sys.argv[1])
first = make_run(folder)
tell(Trackio(first), first, [1, 2])
again = make_run(folder, step=2)
tell(Trackio(again), again, [3, 4])
"""


def test_trackio_goes_on_with_the_same_run(tmp_path):
    pytest.importorskip("trackio", reason="needs the [track] extra")
    own = {"TRACKIO_DIR": str(tmp_path / "own"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO, str(tmp_path)],
        **{"env": os.environ | own, "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "own").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_id, step, metrics from metrics order by step").fetchall()
        configs = base.execute("select config from configs").fetchall()
    assert len({run for run, *_ in rows}) == 1
    assert {step for _, step, _ in rows} == {1, 2, 3, 4}
    assert any("completions" in str(metrics) for *_, metrics in rows)
    assert "group_size" in str(configs)
    assert any("<h1>Hello" in path.read_text("utf-8", errors="replace")
               for path in (tmp_path / "own" / "artifacts").rglob("*")
               if path.is_file())  # fmt: skip


def test_wandb_offline_has_the_same_id_when_it_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the [wandb] extra")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))  # nobody is logged in
    monkeypatch.setenv("WANDB_SILENT", "true")
    first = make_run(tmp_path)
    tell(Wandb(first), first, [1, 2])
    again = make_run(tmp_path, step=2)
    tell(Wandb(again), again, [3, 4])
    offline = [path for path in (tmp_path / "wandb").iterdir() if path.name.startswith("offline")]
    assert offline and all(path.name.endswith("-abc123") for path in offline)
    told = b"".join(path.read_bytes() for own in offline for path in own.glob("*.wandb"))
    for word in (b"train/loss", b"group_size", b"completions", b"report-abc123"):
        assert word in told
    tables = [path.read_text() for own in offline for path in own.rglob("completions*.table.json")]
    assert tables and "Why|so?" in tables[0]
