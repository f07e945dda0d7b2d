"""`cotjax doctor`: one line a check, of healthy runs and of broken ones, and nothing is trained."""

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cotjax import doctor
from cotjax.doctor import main
from cotjax.findings import Finding
from tests.broken import (
    with_nan,
    with_other_cuts,
    with_other_end,
    with_other_tokens,
    with_template,
    without_tokenizer,
)
from tests.tiny import flags, write_sevens, write_student


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    return folder, write_student(folder / "student"), write_sevens(folder / "sevens.jsonl")


def look(capsys, world, *more, broken=()):
    """(exit status, lines) of a doctor's visit."""
    folder, student, data = world
    status = main([*flags(student, data, folder / "runs", "x", *more), *broken, "--no-train"])
    lines = capsys.readouterr().out.splitlines()
    assert not (folder / "runs").exists(), "nothing is written"
    return status, lines


def failures(lines):
    return [line for line in lines if line.startswith("FAIL")]


@pytest.mark.parametrize("stage", ["sft", "grpo", "rft", "rewrite", "reconstruct"])
def test_a_healthy_run_has_a_line_for_each_check(capsys, world, stage):
    more = {"rewrite": ["--rollout.max-prompt-tokens=64"]}.get(stage, [])
    more += ["--model.init=pretrained", "--batch.sequence-length=96"] if stage != "grpo" else []
    status, lines = look(capsys, world, f"--stage={stage}", *more)
    assert status == 0 and not failures(lines)
    assert " 0 FAIL. For an issue: cotjax doctor --issue" in lines[-1]
    machine = "python", "packages", "disk", "extras", "devices", "memory"
    run = "settings", "files", "output", "device", "student", "template", "data", "stage"
    for name in (*machine, *run):
        assert sum(line.startswith(f"OK   {name}: ") for line in lines) == 1, lines
    assert any(line.startswith("OK   numbers: finite; ") for line in lines)


def test_the_built_in_student_is_healthy(capsys, tmp_path):
    argv = ["--eval.problems=4", f"--output={tmp_path}", "--mesh.data=1"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "OK   student: tiny: llama" in shown
    assert "OK   train: one step of GRPO with the built-in student took" in shown
    assert [*tmp_path.iterdir()] == []


def test_teachers_are_looked_at_one_by_one(capsys, world):
    own = "--teachers.paths", world[1], "--stage=distill", "--curriculum.buckets=2"
    more = "--curriculum.num-monitor=2", "--teachers.top-k=400"
    status, lines = look(capsys, world, *own, *more)
    assert status == 0, lines
    (first, same, numbers, mass) = [line for line in lines if f"teacher {world[1]}: " in line]
    assert "llama" in first and "same ids, same end token" in same and "finite" in numbers
    assert "the likeliest 400 tokens keep" in mass


def test_a_small_store_is_a_note_until_it_is_used(capsys, world):
    own = "--teachers.paths", world[1], "--stage=distill", "--curriculum.buckets=2"
    more = "--curriculum.num-monitor=2", "--teachers.top-k=1", "--distill.temperature=9"
    status, lines = look(capsys, world, *own, *more)
    assert status == 0
    (note,) = [line for line in lines if line.startswith("NOTE teacher")]
    assert "teachers.top_k = 1 keeps" in note and "50% are needed" in note


def test_a_list_is_looked_at_stage_by_stage(capsys, world):
    path = world[0] / "list.toml"
    path.write_text('[[stages]]\nstage = "sft"\n[[stages]]\nstage = "grpo"\nname = "again"\n')
    more = f"--config={path}", "--model.init=pretrained", "--batch.sequence-length=96"
    status, lines = look(capsys, world, *more)
    assert status == 0, lines
    for label in ("sft", "again"):
        assert any(line.startswith(f"OK   {label}: stage: opened") for line in lines)
    assert sum(": numbers: " in line for line in lines) == 1, "one model, looked at once"


def test_a_note_is_no_failure(capsys, world):
    status, lines = look(capsys, world, "--model.init=random")
    assert status == 0
    assert any(line.startswith("NOTE student: Random weights from seed 3") for line in lines)


# Broken ones.


def teacher(make):
    def argv(student, folder):
        return ["--stage=distill", "--curriculum.buckets=2", "--curriculum.num-monitor=2",
                "--teachers.paths", str(make(student, folder / make.__name__))]  # fmt: skip

    return argv


def student_of(make):
    return lambda student, folder: [f"--model.path={make(student, folder / make.__name__)}"]


def dropping(student, folder):
    return with_template(student, folder, "{{ messages[0].role }}")


BROKEN = {
    "no tokenizer": (student_of(without_tokenizer), "student", "no tokenizer.json"),
    "NaN weights": (student_of(with_nan), "numbers", "numbers of layers.down.kernel are NaN"),
    "a template without the question": (student_of(dropping), "student", "drops the user's mess"),
    "a teacher's other tokens": (teacher(with_other_tokens), "stage", "different tokenizers (421"),
    "a teacher's other cuts": (teacher(with_other_cuts), "stage", "have the same tokens and write"),
    "a teacher's other end": (teacher(with_other_end), "stage", "ends a text with '<|mask|>' (2)"),
    "a teacher's NaN": (teacher(with_nan), "teacher ", "are NaN or infinite"),
    "no data": (lambda *_: ["--data.path=no.jsonl"], "files", 'data.path = "no.jsonl": no such'),
    "no model": (lambda *_: ["--model.path=no"], "model", 'model.path = "no": not a folder'),
    "a wrong key": (lambda *_: ["--rollout.grup-size=4"], "settings", 'mean "rollout.group_size"'),
    "a wrong value": (lambda *_: ["--rollout.group-size=1"], "settings", "needs at least 2 compl"),
    "a long text": (lambda *_: ["--eval.max-new-tokens=9999"], "stage", "model's context of"),
    "an output that is a file": (lambda *_: ["--output=/dev/null"], "output", "is no folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_fails_in_one_line(capsys, world, tmp_path, name):
    argv, check, said = BROKEN[name]
    more = argv(world[1], tmp_path)
    stage = [flag for flag in more if flag.startswith("--stage")]
    status, lines = look(capsys, world, *stage, broken=more)
    (line,) = failures(lines)
    assert status == 1
    assert line.startswith(f"FAIL {check}") and said in line, line


# Other ways to say it.


@pytest.fixture
def found(monkeypatch):
    """What a visit finds, made up."""
    home = Path.home()
    made = [
        Finding("OK", "python", "3.11"),
        Finding("NOTE", "output", f"{home}/runs/x of anna-lena exists, /home/other/y too"),
        Finding("FAIL", "model", "hf_abcdefghijklmnop at https://me:secret@host/``` and S3CR3T-1"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda argv: iter(made))
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "anna-lena")
    monkeypatch.setattr(doctor.socket, "gethostname", lambda: "host")
    monkeypatch.setenv("SOME_API_KEY", "S3CR3T-1")
    return made


def test_json_is_one_object_and_the_status_says_the_same(found, capsys):
    assert main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and told["findings"] == [vars(one) for one in found]
    assert told["versions"]["jax"] and told["issue"].startswith("### What happened")


def test_an_issue_has_no_names_homes_hosts_or_tokens(found, capsys):
    assert main(["--issue"]) == 1
    text = capsys.readouterr().out
    assert "NOTE output: ~/runs/x of USER exists, ~/y too" in text
    assert "FAIL model: TOKEN at https://TOKEN@HOST/''' and TOKEN" in text
    for word in ("anna", "hf_", "secret", "S3CR3T", "/home", str(Path.home())):
        assert word not in text
    assert text.count("```") == 2 and "1 OK, 1 NOTE, 1 FAIL" in text


def test_a_user_without_a_name_hides_nothing(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(doctor.getpass, "getuser", nobody)
    assert doctor.without_names("python 3.11", {"EMPTY_KEY": ""}) == "python 3.11"


# Broken machines.


def visit(tmp_path, **environment):
    """(exit status, lines) of `python -m cotjax.doctor` in an environment of its own."""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "COLUMNS": "80"} | environment
    command = [sys.executable, "-m", "cotjax.doctor", "--no-train", "--eval.problems=4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("name", ["optax", "rich", "tomli_w"])
def test_a_package_that_cannot_be_imported_is_told_and_nothing_else_is_tried(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("raise ImportError('half of it is missing')\n")
    status, lines = visit(tmp_path)
    assert status == 1 and failures(lines)
    for line in failures(lines):  # what imports it fails with it
        assert line.startswith("FAIL packages: ")
        assert "cannot be imported (half of it is missing" in line
        if f" {name.replace('_', '-')} " in line:  # no reinstalled package would help
            assert f"{tmp_path / name}.py stands before the installed package: rename it" in line
    assert any(f" {name.replace('_', '-')} " in line for line in failures(lines))
    assert any(line.startswith("OK   python: ") for line in lines)
    assert not any(" settings: " in line or " devices: " in line for line in lines)


def test_a_cache_that_cannot_be_written_is_a_note(tmp_path):
    status, lines = visit(tmp_path, JAX_COMPILATION_CACHE_DIR="/proc")
    (line,) = [line for line in lines if " cache: " in line]
    assert status == 0 and line.startswith("NOTE cache: /proc: cannot be written")


def test_no_disk_fails(capsys, world, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 0))
    status, lines = look(capsys, world, "--stage=grpo")
    assert status == 1
    assert [line.split(":")[0] for line in failures(lines)] == ["FAIL disk", "FAIL output"]
