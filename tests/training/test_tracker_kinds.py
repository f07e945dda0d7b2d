"""The real packages, offline: numbers, config, tables and reports arrive; a resumed run goes on."""

import os
import sqlite3
import struct
import subprocess
import sys

import pytest

from cotjax.training.tracker_kinds import KINDS, TensorBoard, TrackerState, WholeSteps
from cotjax.training.trackers import COLUMNS, TrackedRun

TABLE = [["before", "a/1", "Why|so?\nNow", "7", "7\x1b[2J", 1.0, 0.5, 2, "eos"]]


def make_run(folder, step=None):
    (folder / "config.toml").write_text("seed = 1\n")
    (folder / "report.html").write_text("<h1>Hello</h1>")
    config = {"seed": 1, "rollout": {"group_size": 4}}
    return TrackedRun("cotjax-test", "short", "", "abc123", folder, config, step)


def tell(tracker, run, steps, *, killed=False):
    """Steps of a run; one that is killed never ends."""
    for step in steps:
        tracker.write(step, {"train/loss": 1.0 / (1 + step)})
    if killed:
        return
    tracker.write_completions(steps[-1], TABLE)
    tracker.keep_report(run.folder / "report.html")
    tracker.end(failed=False)


def test_a_step_is_told_once_and_whole():
    told = []
    steps = WholeSteps(lambda step, values: told.append((step, values)), first=3)
    for step in (1, 2, 3):
        steps.add(step, {"train/loss": step})
    steps.add(3, {"eval/accuracy": 0.5})
    assert told == []  # more may follow of it
    steps.add(4, {"train/loss": 4})
    assert told == [(3, {"train/loss": 3, "eval/accuracy": 0.5})]
    steps.end()
    steps.end()
    assert told[1:] == [(4, {"train/loss": 4})]


@pytest.mark.parametrize("damaged", ["", "{", "3", "\udcff"])
def test_what_a_tracker_keeps_is_nothing_if_it_is_damaged(tmp_path, damaged):
    state = TrackerState(make_run(tmp_path), "own")
    assert state.read() == {}
    state.write(step=3)
    assert state.read() == {"step": 3}
    (tmp_path / "tracked" / "own.json").write_text(damaged, errors="surrogateescape")
    assert state.read() == {}


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
    tell(TensorBoard(first), first, [1], killed=True)  # before anything was saved
    again = make_run(tmp_path, step=0)
    tell(TensorBoard(again), again, [1, 2, 3])
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
    assert purged == [1, 3]
    assert events == [(step, pytest.approx(1 / (1 + step))) for step in (1, 2, 3, 4)]
    completions = next(text for tag, text in texts.items() if tag.startswith("completions"))
    assert "| before | a/1 | Why\\|so?<br>Now | 7 | 7\\x1b[2J | 1.0 |" in completions
    assert any("seed = 1" in text for text in texts.values())
    assert any("report.html" in text for text in texts.values())


TOLD = """
import os, pathlib, signal, sys, time
from cotjax.training.tracker_kinds import KINDS
from tests.training.test_tracker_kinds import make_run, tell
name, folder, step, killed, *steps = sys.argv[1:]
run = make_run(pathlib.Path(folder), step=None if step == "new" else int(step))
tracker = KINDS[name](run)
tell(tracker, run, [*map(int, steps)], killed=killed != "ended")
if killed == "failed":
    tracker._run.finish(exit_code=1)  # what wandb's own process has is written
if killed == "killed":
    time.sleep(1.5)  # a tracker sends twice a second
    os.kill(os.getpid(), signal.SIGKILL)
"""


def tell_alone(name, folder, step, killed, *steps, **env):
    """Tells a tracker in a process of its own, which may be killed; what that process said."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD, name, str(folder), str(step), killed, *map(str, steps)],
        **{"env": os.environ | env, "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == (-9 if killed == "killed" else 0), done.stderr
    return done.stdout + done.stderr


def test_trackio_goes_on_with_the_same_run_and_has_each_step_once(tmp_path):
    pytest.importorskip("trackio", reason="needs the [track] extra")
    own = {"TRACKIO_DIR": str(tmp_path / "own"), "HF_HUB_OFFLINE": "1"}
    (other := tmp_path / "other").mkdir()
    tell_alone("trackio", tmp_path, "new", "killed", 1, 2, 3, **own)  # saved after step 1
    tell_alone("trackio", tmp_path, 1, "ended", 2, 3, 4, **own)
    (file,) = (tmp_path / "own").glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_id, step, metrics from metrics order by step").fetchall()
        configs = base.execute("select config from configs").fetchall()
    assert len({run for run, *_ in rows}) == 1
    assert [step for _, step, _ in rows] == [1, 2, 3, 4]
    assert any("completions" in str(metrics) for *_, metrics in rows)
    assert "group_size" in str(configs)
    assert any("<h1>Hello" in path.read_text("utf-8", errors="replace")
               for path in (tmp_path / "own" / "artifacts").rglob("*")
               if path.is_file())  # fmt: skip
    # A younger run of the same name, in another folder, is not gone on with.
    tell_alone("trackio", other, "new", "ended", 1, **own)
    tell_alone("trackio", tmp_path, 4, "ended", 5, **own)
    tell_alone("trackio", tmp_path, 5, "ended", 6, **own)
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, step from metrics order by id").fetchall()
    names = {"short": [1, 2, 3, 4, 1], "short-abc123": [5, 6]}
    assert {name: [step for one, step in rows if one == name] for name, _ in rows} == names


def history(path):
    """The steps of a .wandb file: a log as LevelDB's, of protocol buffers, behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, steps = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:  # a record's head is never cut
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # the whole of one, or its last part
            record = Record.FromString(whole)
            items = {one.key or "/".join(one.nested_key): one.value_json
                     for one in record.history.item}  # fmt: skip
            steps += [int(items["_step"])] if "_step" in items else []
            whole = b""
    return steps


def test_wandb_offline_has_the_same_id_when_it_goes_on_and_each_step_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the [wandb] extra")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))  # nobody is logged in
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    tell_alone("wandb", tmp_path, "new", "failed", 1, 2, 3)  # saved after step 1
    said = tell_alone("wandb", tmp_path, 1, "ended", 2, 3, 4)
    assert "Run data is saved locally" in said and "Run summary" not in said
    offline = [path for path in (tmp_path / "wandb").iterdir() if path.name.startswith("offline")]
    assert offline and all(path.name.endswith("-abc123") for path in offline)
    files = sorted(file for own in offline for file in own.glob("*.wandb"))
    assert [history(file) for file in files] == [[1, 2], [3, 4]]  # `wandb sync` joins them
    told = b"".join(path.read_bytes() for own in offline for path in own.glob("*.wandb"))
    for word in (b"train/loss", b"group_size", b"completions", b"report-abc123"):
        assert word in told
    tables = [path.read_text() for own in offline for path in own.rglob("completions*.table.json")]
    assert tables and "Why|so?" in tables[0]
