"""`benchmarks/faults.py`: which cases there are, what its table says, and some of them."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def faults(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module("faults")


def test_kinds_have_their_counts_unless_they_are_given(faults):
    assert faults.kinds_of("kill=5,term") == {"kill": 5, "term": 20}
    assert faults.kinds_of("")["full"] == 10 and set(faults.kinds_of("")) == set(faults.KINDS)
    with pytest.raises(SystemExit, match="--cases quake=5: needs some of kill, "):
        faults.kinds_of("quake=5")


def test_every_stage_has_a_case_before_one_has_all(faults):
    cases = list(faults.wanted({"kill": 2, "reward": 1}, ["sft", "grpo"]))
    assert cases == [
        *(("kill", "sft", 0), ("kill", "grpo", 0), ("reward", "grpo", 0)),
        *(("kill", "sft", 1), ("kill", "grpo", 1)),
    ]


def row(number, saw, lost, equal=True, **more):
    found = {"seed": 0, "kind": "kill", "stage": "sft", "number": number, "fault": "SIGKILL"}
    return found | {"saw": saw, "lost": lost, "equal": equal} | more


def test_the_table_counts_what_is_alike(faults):
    rows = [row(0, "step 1/6", 2), row(1, "step 3/6", 1), row(2, "a | b", 0, equal=False)]
    rows += [row(0, "step 6/6", 0, stage="rft")]
    rows += [row(0, "1 line was left out", "2 completions", stage="grpo", fault="a reward")]
    assert faults.table(rows).splitlines()[2:] == [
        "| SIGKILL | sft 3, rft 1 | 3 of 4 | 2 steps | step N/N (3 of 4) |",
        "| a reward | grpo 1 | 1 of 1 | 2 completions | 1 line was left out |",
    ]


def test_a_case_that_is_done_is_not_done_again(faults, tmp_path, monkeypatch, capsys):
    rows = [row(0, "a", 0), row(1, "b", 0)]
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (tmp_path / "cases.jsonl").write_text(text + '{"seed": 0, "kind": "ki')
    monkeypatch.setattr(faults, "methods", lambda: pytest.fail("a case was done"))
    cases = [("kill", "sft", 0), ("kill", "sft", 1)]
    assert faults.run_cases(tmp_path, cases, 0) == rows
    assert faults.main([str(tmp_path), "--table"]) == 0
    assert "| SIGKILL | sft 2 | 2 of 2 |" in capsys.readouterr().out


def test_parts_of_a_run_are_stages_and_no_bundles(faults, tmp_path):
    world = importlib.import_module("injection.world")
    (tmp_path / "bad_step-3").mkdir()
    assert world.parts_of(tmp_path) == [tmp_path]
    (tmp_path / "1-sft").mkdir()
    assert world.parts_of(tmp_path) == [tmp_path / "1-sft"]


@pytest.mark.filterwarnings("ignore:os.fork")  # the child only sleeps and counts
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and fork")
def test_a_moment_is_told_in_what_a_process_computes(faults, tmp_path):
    world = importlib.import_module("injection.world")

    def sleep_and_compute():
        time.sleep(0.3)
        while time.process_time() < 60:
            pass

    process = world.Process(sleep_and_compute, tmp_path / "out.txt")
    assert process.works(0.05)
    assert 0.05 <= process.used < 10
    process.send(9)
    assert process.end().status == -9 and process.used == float("inf")


@pytest.mark.slow
def test_some_cases(tmp_path):
    argv = [sys.executable, str(BENCHMARKS / "faults.py"), str(tmp_path), "--stages=sft"]
    argv += ["--cases=kill=2,term=1,full=1,damage=1,replay=1"]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(one["equal"] for one in rows)
    assert {one["kind"] for one in rows} == {"kill", "term", "full", "damage", "replay"}
