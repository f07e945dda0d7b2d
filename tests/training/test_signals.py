"""SIGTERM and SIGINT: heard once and twice, by a thread; who listened before hears again."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cotjax.errors import Stopped
from cotjax.training.signals import StopSignals

# A process that is deaf in its main thread, as inside a long program of JAX.
BUSY = """
import hashlib, sys
from cotjax.training.signals import StopSignals
with StopSignals(float(sys.argv[1]), lambda text: print(text, flush=True)) as signals:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)  # which no signal breaks off
    print("slept", flush=True)
"""


def wait_for(true):
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    assert true()


def test_the_first_signal_is_noted_and_told():
    told = []
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    with StopSignals(17.0, told.append) as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: told)
        assert signals.asked == signal.SIGTERM
        with pytest.raises(Stopped) as stopped:
            signals.check()
        with pytest.raises(Stopped), signals.at_once():
            raise AssertionError("it was begun")
    assert "SIGTERM: the run finishes its step" in told[0] and "within 17 s" in told[0]
    assert stopped.value.status == 143 and str(stopped.value) == "stopped by SIGTERM."
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_notice_ends_the_run_and_the_signal_behind_it_is_the_first():
    told = []
    with StopSignals(17.0, told.append) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for(lambda: told)
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: len(told) == 2)
        with pytest.raises(Stopped) as stopped:
            signals.check()
    assert stopped.value.status == 143
    assert told[0].startswith("SIGUSR1: ") and "once more ends it at once" in told[1]


def test_what_is_done_again_is_broken_off():
    with StopSignals() as signals:
        with pytest.raises(Stopped) as stopped, signals.at_once():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
            raise AssertionError("it went on")
        assert stopped.value.status == 130


def test_in_another_thread_it_hears_nothing_and_harms_nothing():
    def listen():
        with StopSignals() as signals, signals.at_once():
            found.append(signals.asked)

    found, before = [], signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [0] and signal.getsignal(signal.SIGTERM) is before


@contextlib.contextmanager
def busy(grace):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(grace)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_it_at_once(number, status):
    with busy(600) as process:
        process.send_signal(number)
        assert process.stdout.readline().startswith(signal.Signals(number).name.encode())
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == status and time.monotonic() - began < 10


@pytest.mark.slow
def test_it_ends_within_its_grace():
    with busy(2) as process:
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(25) == 143 and time.monotonic() - began < 15
