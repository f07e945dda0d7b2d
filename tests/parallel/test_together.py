"""Processes of one run end together, and say which of them failed."""

import itertools
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from cotjax.errors import Stopped
from cotjax.parallel import together

WORKER = pathlib.Path(__file__).with_name("together_worker.py")


def run(kind, count=3, waits="free"):
    """What processes of an accident ended with and said, and the seconds from it to their end."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(number), str(count), str(port), kind, waits],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    victim = 0 if kind == "first" else count - 1
    try:
        said = {
            number: process.communicate(timeout=120)
            for number, process in enumerate(started)
            if number != victim
        }
        ended = time.time()
    finally:
        started[victim].send_signal(signal.SIGCONT)
        if kind == "hang":
            started[victim].kill()
        said[victim] = started[victim].communicate(timeout=120)
    when = [float(line.split()[1]) for line in said[victim][0].splitlines() if "accident" in line]
    seconds = ended - when[0] if when else 0.0
    return [process.returncode for process in started], said, seconds


def test_processes_that_end_well_wait_for_nobody():
    codes, said, _ = run("none", 2)
    assert codes == [0, 0], said
    assert [f"through {number}" in said[number][0] for number in range(2)] == [True, True]
    assert "failed" not in said[0][1] + said[1][1]


@pytest.mark.parametrize(
    ("kind", "tells", "status"),
    [
        ("raise", "process 2 of 3 failed, so all end. Host {host}: ValueError: the data is", 1),
        pytest.param(
            *("input", "process 2 of 3 failed, so all end. Host {host}: InputError: data.path", 2),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("first", "process 0 of 3 failed, so all end. Host {host}: ValueError: the data", 1),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_process_that_raises_ends_all_with_its_error_and_its_host(kind, tells, status):
    codes, said, seconds = run(kind)
    victim = 0 if kind == "first" else 2
    assert codes == [status if number == victim else 1 for number in range(3)], said
    for number in {0, 1, 2} - {victim}:
        assert tells.format(host=socket.gethostname()) in said[number][1]
    assert seconds < 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "hang"])
def test_a_process_that_is_killed_or_stands_still_is_missed(kind):
    codes, said, seconds = run(kind)
    assert codes[:2] == [1, 1], said
    for number in range(2):
        assert "process 2 of 3 failed, so all end. It is silent for 10 s" in said[number][1]
    assert seconds < 30


@pytest.mark.slow
def test_processes_that_wait_within_the_lock_are_ended_by_jax():
    codes, said, seconds = run("hang", waits="held")
    assert 0 not in codes[:2]
    assert "silent for 10 s" in said[0][1] or "unhealthy (stopped sending heartbeats)" in said[0][1]
    assert seconds < together.HEARTBEAT + 12


# One process's lookout, over a coordinator of a dictionary.


class Coordinator:
    def __init__(self):
        self.kept, self.gone = {}, False

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self.kept
        if self.gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        self.kept[key] = value

    def key_value_dir_get(self, key):
        if self.gone:
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: Socket closed")
        return [(name, text) for name, text in self.kept.items() if name.startswith(key)]


class Ended(Exception):
    pass


@pytest.fixture
def ends(monkeypatch):
    """Ends of the process, which raise here."""

    def leave(status):
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(together, "LOOK", 0.01)
    monkeypatch.setattr(together, "GRACE", 0.01)


def test_the_first_misses_a_silent_process_and_tells_the_others(ends, capsys, monkeypatch):
    clock = itertools.count(step=4.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    coordinator = Coordinator()
    coordinator.kept |= {"cotjax/1/alive/1": "7", "cotjax/1/alive/2": "done"}
    with pytest.raises(Ended):
        together.Lookout(coordinator, 0, 3)._run()
    assert "process 1 of 3 failed, so all end. It is silent" in capsys.readouterr().err
    assert "It is silent" in coordinator.kept["cotjax/1/failed/1"]
    with pytest.raises(Ended):
        together.Lookout(coordinator, 2, 3)._run()
    assert "process 1 of 3 failed" in capsys.readouterr().err


def test_a_coordinator_that_is_gone_is_the_first_process(ends, capsys):
    coordinator = Coordinator()
    coordinator.gone = True
    with pytest.raises(Ended):
        together.Lookout(coordinator, 2, 3)._run()
    assert "process 0 of 3 failed, so all end. It no longer answers" in capsys.readouterr().err


def test_an_agreed_end_is_no_failure(monkeypatch):
    coordinator = Coordinator()
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(together, "_client", lambda: coordinator)
    with pytest.raises(Stopped), together.ending_together():
        raise Stopped(signal.SIGTERM)
    assert [*coordinator.kept.values()] == ["done"]


def test_what_failed_in_another_run_is_nothing_to_this_one(ends):
    coordinator = Coordinator()
    coordinator.kept["cotjax/1/failed/1"] = "Host a: ValueError: b"
    lookout = together.Lookout(coordinator, 0, 2, run=2)
    lookout._look()
    lookout.done()
    assert coordinator.kept["cotjax/2/alive/0"] == "done"


def test_a_process_alone_watches_nobody(monkeypatch):
    monkeypatch.setattr(together, "_client", lambda: pytest.fail("asked"))
    with together.ending_together():
        pass
