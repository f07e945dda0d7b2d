"""A user's object that is wrong stops the command with one sentence, from a flag and a file."""

import json
import pathlib
import subprocess
import sys

import pytest

from cotjax.train import main

TEXT = """
def none(completion, record): pass
def one(only): pass
NUMBER = 3
"""
KEYS = {
    "stage": "a class with from_config(config, mesh)",
    "reward.function": "(Completion, Record) -> float | dict[str, float]",
    "reward.verifier": "extract(text) -> str | None and equal(a, b) -> bool",
    "policy.term": "(logp, logp_old, advantage, mask, **settings) -> loss [B, G, T]",
    "data.source": "records: __len__() and __getitem__(index) -> Record",
    "curriculum.difficulty": "(Record) -> float, or (student, records) -> [n]",
    "curriculum.schedule": "(progress, num_teachers) -> [N]",
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("own.py").write_text(TEXT)
    pathlib.Path("broken.py").write_text("1 / 0\n")


def as_file(key, value):
    section, _, name = key.rpartition(".")
    head = f"[{section}]\n" if section else ""
    pathlib.Path("run.toml").write_text(f"{head}{name} = {json.dumps(value)}\n")
    return ["--config=run.toml", "--name=r"]


def refused(capsys, argv):
    assert main(argv) == 2
    out, said = capsys.readouterr()
    assert out == "" and said.startswith("error: ") and said.count("\n") == 1
    assert not pathlib.Path("runs").exists()
    return said


@pytest.mark.parametrize("way", ["flag", "file"])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./own.py:nothing", ['"./own.py" has no "nothing". It has none, one, NUMBER']),
        ("./nowhere.py:f", ["there is no file"]),
        ("/tmp/nowhere.py:f", ["lies outside of the project"]),
        ("no_such_package:f", ['there is no module "no_such_package"']),
        ("./broken.py:f", ['raised ZeroDivisionError: division by zero (broken.py, line 1: "1 /']),
        ("./own.py:NUMBER", ["takes"]),
    ],
)
def test_what_cannot_be_used(capsys, key, name, words, way):
    flag = [f"--{key}={name}", "--name=r"]
    on = ["--curriculum.buckets=2"] if key == "curriculum.difficulty" else []
    on += ["--distill.coefficient=0.5"] if key == "curriculum.schedule" else []
    said = refused(capsys, [*(flag if way == "flag" else as_file(key, name)), *on])
    assert said.startswith(f'error: {key} = "{name}": ')
    for word in words:
        assert word in said
    if name.endswith("NUMBER"):
        assert KEYS[key] in said


@pytest.mark.parametrize("key", KEYS)
def test_a_word_that_is_no_name_shows_what_the_key_takes(capsys, key):
    said = refused(capsys, as_file(key, "mine"))
    assert f'{key} = "mine": ' in said and "./file.py:" in said


def test_nothing_heavy_is_imported_before():
    code = (
        "import sys; from cotjax.train import main\n"
        "assert main(['--reward.function=./own.py:one', '--name=r']) == 2\n"
        "print(sorted({'jax', 'flax', 'transformers', 'grain'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr
    assert "its signature is (only), and reward.function takes" in ran.stderr
