"""`cotjax` and `python -m cotjax`: a list of commands, each of which is its module."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cotjax
from cotjax.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[1]


def shell(*words):
    """(exit status, output, errors) of `python -m WORDS`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_it_lists_the_commands_one_line_each(argv, capsys):
    assert main(argv) == 0
    shown = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        assert sum(line.startswith(f"  {name} ") for line in shown) == 1
    assert len(shown) <= 24 and max(map(len, shown)) <= 80


def test_every_command_is_a_module():
    for name in COMMANDS:
        path = ROOT / "cotjax" / name.replace("-", "_")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cotjax {cotjax.__version__}\n"


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: cotjax trian: no such command. Did you mean "train"?')
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_is_one_screen_and_the_same_both_ways(name):
    status, shown, _ = shell("cotjax", name, "--help")
    assert status == 0
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 80
    assert shell(f"cotjax.{name.replace('-', '_')}", "--help") == (0, shown, "")


@pytest.mark.parametrize("name", ["train", "report", "cache_logits"])
def test_a_command_says_its_version(name):
    assert shell("cotjax", name, "--version") == (0, f"cotjax {cotjax.__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--stepz=3"], 'error: --stepz: unknown key "stepz". Did you mean "steps"?\n'),
        (["train", "--steps=abc"], 'error: the command line: steps = "abc" (str): needs a whole'),
        (["evaluate", "--checkpont=x"], 'Did you mean "checkpoint"?\n'),
        (["generate", "--n=x"], "error: --n = x: needs a whole number.\n"),
        (["export", "--dtyp=x"], '--dtyp: cotjax export has no such flag. Did you mean "--dtype"'),
        (["report"], "the following arguments are required: RUN"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, says):
    status, shown, said = shell("cotjax", *words)
    assert status == 2 and shown == ""
    assert says in said and said.count("\n") == 1


def test_the_console_script_is_this_module():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cotjax": "cotjax.__main__:main"}
