"""`cotjax doctor`: one line a check, of healthy runs and of broken ones, and nothing is trained."""

import pytest

from cotjax.doctor import main
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
    status = main([*flags(student, data, folder / "runs", "x", *more), *broken])
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
    assert lines[-1].endswith("0 FAIL")
    for name in ("settings", "files", "output", "device", "student", "template", "data", "stage"):
        assert sum(line.startswith(f"OK   {name}: ") for line in lines) == 1, lines
    assert any(line.startswith("OK   numbers: finite; ") for line in lines)


def test_the_built_in_student_is_healthy(capsys, tmp_path):
    assert main(["--eval.problems=4", f"--output={tmp_path}", "--mesh.data=1"]) == 0
    assert "OK   student: tiny: llama" in capsys.readouterr().out


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
