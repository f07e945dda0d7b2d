"""The process that compares expressions: its time limit holds, in every thread."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cotjax.cot.math_process import MathProcess
from tests.processes import outlive

pytest.importorskip("math_verify", reason="math-verify is not installed: the extra [math] names it")
ENDLESS = "2^{2^{2^{2^{2^2}}}}"


@pytest.fixture
def process():
    made = MathProcess(limit=1.0)
    yield made
    made.close()


def test_a_comparison_that_takes_too_long_ends_and_the_next_one_works(process):
    assert process.equal("x/3", r"\frac{x}{3}") is True
    began = time.monotonic()
    assert process.equal("3", ENDLESS) is None
    assert time.monotonic() - began < 3
    assert process.timeouts == 1
    assert process.equal("x/3", "x/4") is False


def test_threads_take_turns(process):
    found = {}

    def ask(number):
        found[number] = process.equal(f"{number}x", f"x*{number}")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(2, 10), True)


def test_the_limit_holds_in_a_thread(process):
    found = []
    thread = threading.Thread(target=lambda: found.append(process.equal("3", ENDLESS)))
    thread.start()
    thread.join(timeout=60)
    assert found == [None]


def test_a_process_that_does_not_start_says_why(process, monkeypatch):
    monkeypatch.setattr("cotjax.cot.math_process._CODE", "import no_such_module")
    with pytest.raises(RuntimeError, match="does not start: ModuleNotFoundError: .*no_such_module"):
        process.equal("1", "x")


def test_one_that_has_ended_in_between_is_started_again(process):
    assert process.equal("x/3", r"\frac{x}{3}") is True
    os.kill(process._process.pid, signal.SIGKILL)
    assert not outlive([process._process.pid])
    assert process.equal("x/3", r"\frac{x}{3}") is True and process.timeouts == 0


def test_an_answer_that_nobody_waited_for_is_no_other_ones(process, monkeypatch):
    assert process.equal("2x", "x*2") is True

    class Interrupted:
        def get(self, timeout):
            raise KeyboardInterrupt

    monkeypatch.setattr(process, "_lines", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        process.equal("2x", "x*2")
    assert process.equal("x/3", "x/4") is False


def test_ctrl_c_is_its_parents_alone(process):
    assert process.equal("2x", "x*2") is True
    assert os.getpgid(process._process.pid) != os.getpgid(0)


BUSY = f"""
import os, threading
from cotjax.cot.math_process import MathProcess
process = MathProcess(limit=2.0)
assert process.equal("2x", "x*2")
print(process._process.pid, flush=True)
threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()
process.equal("3", "{ENDLESS}")
"""


def test_it_ends_with_its_parent_in_the_midst_of_a_comparison():
    command = [sys.executable, "-c", BUSY]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert not outlive([int(done.stdout)]), "it outlived its parent"
