"""A reward in processes of its own: calls that hang, end, take all memory, or give nonsense."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from cotjax.config import Plugin, RewardConfig
from cotjax.errors import PluginError
from cotjax.interfaces import Completion, End, Record
from cotjax.student.reward_workers import RewardWorkers
from tests.processes import outlive

REWARDS = """
import os, re, sys, time

def reward(completion, record):
    text = completion.text
    if text == "hang":
        time.sleep(60)
    if text == "exit":
        sys.exit(3)
    if text == "die":
        os._exit(7)
    if text == "raise":
        raise ValueError("no")
    if text == "memory":
        bytearray(10 * 2**30)
    if text == "function":
        return lambda: 1
    if text == "pid":
        return {"pid": os.getpid(), "group": os.getpgid(0)}
    if text == "stuck":
        re.match("(a+)+$", "a" * 60 + "b")  # no thread has a turn meanwhile
    return len(text)
"""


OWN = Plugin("reward.function", "./rewards.py:reward")
RECORD = Record("r/1", "?", "7", (), 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def workers(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workers = RewardWorkers(OWN, RewardConfig(workers=2, timeout=3.0, memory=1.0))
        workers(pairs("a"))  # they are started where the project is
        yield workers


def pairs(*texts):
    return [(Completion(text, 3, "", None, End.EOS), RECORD) for text in texts]


def test_a_call_that_fails_costs_its_own_completion_alone(workers):
    texts = ("four", "hang", "raise", "exit", "die", "function", "a")
    first, *failed, last = workers(pairs(*texts))
    assert (first, last) == (4, 1)
    assert all(isinstance(one, PluginError) and one.record == "r/1" for one in failed)
    said = [str(one) for one in failed]
    assert all(one.startswith('reward.function = "./rewards.py:reward" ') for one in said)
    for one, words in zip(
        said,
        (
            "took more than reward.timeout = 3 seconds on r/1",
            'raised ValueError: no on r/1 (rewards.py, line 13: "raise',
            'raised SystemExit: 3 on r/1 (rewards.py, line 9: "sys.exit',
            "ended its process with status 7 on r/1",
            "r/1: it cannot be sent to another process.",
        ),
        strict=True,
    ):
        assert words in one


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_call_may_not_take_all_memory(workers):
    huge, small = workers(pairs("memory", "ab"))
    assert "raised MemoryError on r/1" in str(huge) and small == 2


def test_it_runs_in_processes_of_its_own_that_stay(workers):
    found = {one["pid"] for one in workers(pairs(*["pid"] * 8))}
    again = {one["pid"] for one in workers(pairs(*["pid"] * 8))}
    assert os.getpid() not in found | again and len(found | again) <= 2


def test_a_file_that_goes_meanwhile_costs_the_rewards_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "going.py").write_text(
        "import os\ndef reward(completion, record):\n    os.remove(__file__)\n    os._exit(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    own = Plugin("reward.function", "./going.py:reward")
    going = RewardWorkers(own, RewardConfig(workers=1, timeout=5.0))
    said = [str(one) for one in going(pairs("a", "b", "c"))]
    assert "ended its process with status 3" in said[0]
    assert all("there is no file" in one and "going.py" in one for one in said[1:])


def test_a_script_without_a_guard_is_told_of_it(folder):
    script = folder / "script.py"
    script.write_text(
        textwrap.dedent("""
            from cotjax.config import Plugin, RewardConfig
            from cotjax.errors import InputError
            from cotjax.interfaces import Completion, End, Record
            from cotjax.student import reward_workers
            reward_workers.START = 6.0
            workers = reward_workers.RewardWorkers(
                Plugin("reward.function", "./rewards.py:reward"), RewardConfig(workers=1)
            )
            try:
                workers([(Completion("a", 3, "", None, End.EOS), Record("r/1", "?", "7", (), 1))])
            except InputError as error:
                print(error)
        """),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True)
    assert 'Put what your script runs behind if __name__ == "__main__":' in done.stdout


def test_ctrl_c_is_their_parents_alone(workers):
    assert all(one["group"] != os.getpgid(0) for one in workers(pairs("pid", "pid")))


@pytest.mark.parametrize("text", ["a", "hang", "stuck"])
def test_workers_end_with_their_parent_however_it_ends(folder, text):
    script = folder / "script.py"
    script.write_text(
        textwrap.dedent("""
            import os, sys, threading, time
            from cotjax.config import Plugin, RewardConfig
            from cotjax.interfaces import Completion, End, Record
            from cotjax.student.reward_workers import RewardWorkers
            if __name__ == "__main__":
                own = Plugin("reward.function", "./rewards.py:reward")
                workers = RewardWorkers(own, RewardConfig(workers=1, timeout=3.0))
                record = Record("r/1", "?", "7", (), 1)
                pairs = [(Completion(text, 3, "", None, End.EOS), record)
                         for text in ("pid", sys.argv[1])]
                print(workers(pairs[:1])[0]["pid"], flush=True)
                threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()
                workers(pairs[1:])
                time.sleep(60)
        """),
        encoding="utf-8",
    )
    command = [sys.executable, str(script), text]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL
    assert not outlive([int(done.stdout)]), "the worker outlived its parent"
