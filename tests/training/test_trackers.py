"""Trackers are told everything in order, and none of them can stop or delay a run."""

import threading
import time

import pytest

from cotjax.training.trackers import COLUMNS, TrackedRun, Trackers, closing
from tests.training.test_loop import run as fit_run

ROW = {"id": "a/1", "question": "Why?", "gold": 7, "completion": "7", "tokens": 2, "end": "eos",
       "reward": 1.0, "parts": {"correct": 1.0}}  # fmt: skip


class Listener:
    """Writes down what it is told."""

    def __init__(self, run):
        self.opened, self.told = run, []

    def write(self, step, values):
        self.told.append((step, values))

    def write_completions(self, step, rows):
        self.told.append((step, rows))

    def keep_report(self, path):
        self.told.append(("report", path))

    def end(self, *, failed):
        self.told.append(("end", failed))


def tracked(tmp_path, opens, **more):
    run = TrackedRun("cotjax", "name", "", "abc", tmp_path, {"seed": 1})
    warned = []
    return Trackers(opens, run, warned.append, **more), warned


def test_they_are_told_in_order_with_the_kind_before_the_name(tmp_path):
    opened = []
    trackers, warned = tracked(tmp_path, {"own": lambda run: opened.append(Listener(run)) or
                                          opened[0]})  # fmt: skip
    trackers.begin(3)
    trackers.write(4, "train", {"loss": 1.5, "entropy": float("nan"), "count": 2})
    trackers.write(4, "eval", {"accuracy": 0.5})
    trackers.write_completions(4, "train", [ROW])  # left to the run folder
    trackers.write_completions(4, "eval", [ROW, {"id": "half"}])
    trackers.keep_report(tmp_path / "report.html")
    trackers.close()
    (listener,) = opened
    assert (listener.opened.step, listener.opened.config) == (3, {"seed": 1})
    numbers, accuracy, (step, table), *rest = listener.told
    assert numbers == (4, {"train/loss": 1.5, "train/count": 2})
    assert accuracy == (4, {"eval/accuracy": 0.5})
    assert step == 4 and dict(zip(COLUMNS, table[0], strict=True)) == {
        **{name: ROW[name] for name in COLUMNS if name in ROW},
        **{"kind": "eval", "correct": 1.0, "gold": "7"},
    }
    assert table[1][COLUMNS.index("completion")] is None
    assert rest == [("report", tmp_path / "report.html"), ("end", False)]
    assert not warned


@pytest.mark.parametrize("when", ["open", "write"])
def test_one_that_raises_is_left_out_with_one_warning(tmp_path, when):
    class Raises(Listener):
        def write(self, step, values):
            raise ConnectionError("no route\nto host") if when == "write" else SystemExit

    def opens(run):
        if when == "open":
            raise ConnectionError("no route\nto host")
        return Raises(run)

    good = Listener(None)
    trackers, warned = tracked(tmp_path, {"bad": opens, "good": lambda run: good})
    trackers.begin(None)
    for step in range(3):
        trackers.write(step, "train", {"loss": 1.0})
    trackers.close()
    assert warned == ["track: bad is left out from now on (ConnectionError: no route). Training "
                      "goes on; metrics.jsonl has everything."]  # fmt: skip
    assert [step for step, _ in good.told] == [0, 1, 2, "end"]


def test_one_that_hangs_delays_nothing(tmp_path):
    never = threading.Event()
    trackers, warned = tracked(tmp_path, {"slow": lambda run: never.wait()}, wait=0.1)
    began = time.monotonic()
    trackers.begin(None)
    for step in range(100):
        trackers.write(step, "train", {"loss": 1.0})
    trackers.close()
    never.set()
    assert time.monotonic() - began < 5
    assert warned == ["track: slow has not taken everything within 0 seconds; the run folder has "
                      "it."]  # fmt: skip


def test_a_run_that_fails_says_so(tmp_path):
    good = Listener(None)
    trackers, _ = tracked(tmp_path, {"good": lambda run: good})
    with pytest.raises(KeyboardInterrupt), closing(trackers):
        trackers.begin(None)
        raise KeyboardInterrupt
    assert good.told == [("end", True)]


def test_the_loop_tells_what_it_writes(tmp_path):
    from tests.training.test_loop import lines

    good = Listener(None)
    trackers, _ = tracked(tmp_path, {"good": lambda run: good})
    with closing(trackers):
        fit_run(tmp_path / "run", trackers=trackers)
    numbers = [(step, values) for step, values in good.told if isinstance(values, dict)]
    written = [
        (line["step"], {f"{line['kind']}/{name}": one for name, one in line.items()
                        if name not in ("step", "kind") and one is not None})
        for line in lines(tmp_path / "run" / "metrics.jsonl")
    ]  # fmt: skip
    assert numbers == written
    tables = [step for step, rows in good.told if isinstance(rows, list)]
    assert tables == [0, 2, 4, 5]
