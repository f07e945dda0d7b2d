"""`python -m cotjax.cache_logits`: what it says, and what stops it."""

import dataclasses
import json

import pytest

from cotjax import cache_logits as command
from cotjax.curriculum.cache_logits import Written
from tests.tiny import flags, make_config, write_teachers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    write_teachers(folder)
    make_config(folder)
    return folder


def write(folder, out, *more, told=()):
    """Exit status of the command with the flags of a small distillation."""
    own = "--stage=distill", "--steps=4", "--curriculum.buckets=2", "--curriculum.num-monitor=4"
    both = [str(folder / name) for name in ("weak", "strong")]
    made = folder / "student", folder / "sevens.jsonl", folder / "runs"
    given = flags(*made, "cache", *own, *more)
    given = [flag for flag in given if flag != "--stage=distill"]
    return command.main(["--out", str(out), *told, *given, "--teachers.paths", *both])


def test_it_says_what_it_wrote_and_that_it_was_complete_already(folder, tmp_path, capsys):
    assert write(folder, tmp_path) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}: 2 shards" in said and "K = 16" in said and "bytes each" in said
    assert write(folder, tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path} was complete already.\n"
    assert write(folder, tmp_path, told=["--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("out") == str(tmp_path) and found["shards"] == found["positions"] == 0
    assert found.keys() == {field.name for field in dataclasses.fields(Written)}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--teachers.cache=x", 'teachers.cache = "x": the folder to write is --out'),
        ("--teachers.top-k=0", "teachers.top_k = 0: out of range"),
        ("--policy.objective=dapo", "policy.objective: stage distill does not read it"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(folder, tmp_path, capsys, flag, words):
    assert write(folder, tmp_path, flag) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_folder_must_be_named(capsys):
    assert command.main([]) == 2
    assert "--out" in capsys.readouterr().err
