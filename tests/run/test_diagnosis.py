"""What a visit looks at, and in which order: names first, then text, then numbers."""

import dataclasses

import pytest

from cotjax.config import load
from cotjax.run import diagnosis
from cotjax.run.diagnosis import examine
from tests.broken import with_nan
from tests.tiny import with_section, write_sevens


def verdicts(config):
    return [(found.verdict, found.name) for found in examine(config)]


@pytest.fixture
def config(world):
    return world.config("visit", "--stage=grpo")


def test_every_check_is_made_once_and_in_order(config):
    names = ["settings", "files", "output", "device", "student", "template", "data", "stage"]
    assert verdicts(config) == [("OK", name) for name in [*names, "numbers"]]


def test_a_name_that_is_taken_is_worth_a_note(trained):
    found = {one.name: one for one in examine(trained.config) if one.verdict == "NOTE"}
    assert "exists. Add --resume" in found["output"].says


def test_all_names_are_looked_at_before_anything_is_opened(config, monkeypatch):
    monkeypatch.setattr(diagnosis, "load_policy", None)
    broken = with_section(config, "model", path="no model")
    broken = with_section(broken, "data", path="no.jsonl")
    failed = [name for verdict, name in verdicts(broken) if verdict == "FAIL"]
    assert failed == ["files", "model"]


def test_a_run_s_student_is_looked_at_as_it_was_trained(trained):
    again = with_section(trained.config, "model", path=str(trained.folder))
    found = {one.name: one for one in examine(dataclasses.replace(again, name="next"))}
    assert found["numbers"].verdict == "OK"


def test_golds_that_the_verifier_misreads_are_noted(config, monkeypatch):
    monkeypatch.setattr(diagnosis.guards, "gold_check", lambda records, verifier: ("misread",))
    assert ("NOTE", "golds") in verdicts(config)


def test_the_teachers_of_a_policy_stage_are_looked_at(world, tmp_path):
    teacher = with_nan(world.student, tmp_path / "teacher")
    own = f"--teachers.paths={teacher}", "--distill.coefficient=0.5"
    weighed = world.config("a", *own, "--stage=grpo")
    assert ("FAIL", f"teacher {teacher}") in verdicts(weighed)


def test_a_teacher_that_is_a_file_of_texts_needs_no_numbers(world, tmp_path):
    more = "--curriculum.buckets=1", "--curriculum.num-monitor=2", "--distill.target=text"
    own = "--teachers.paths", write_sevens(tmp_path / "texts.jsonl")
    config = load([*world.flags("a", "--stage=distill"), *more, *own])
    found = verdicts(config)
    assert ("OK", "stage") in found and not any(name.startswith("teacher") for _, name in found)
