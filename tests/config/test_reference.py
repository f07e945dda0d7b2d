"""A user's own objects by name: found, and every way in which they are not is one sentence."""

import sys
import types

import pytest

from cotjax.config.reference import check_call, is_reference, name_of, resolve
from cotjax.errors import InputError

TAKES = "(a, b) -> float"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory; a module that a test writes there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(project, text, name="mine.py"):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text)


def refused(value):
    with pytest.raises(InputError) as error:
        resolve("reward.function", value, takes=TAKES)
    said = str(error.value)
    assert said.startswith("reward.function = ") and "\n" not in said
    return said


def test_a_built_in_name_is_no_reference_and_everything_else_is_one():
    assert not is_reference("bridge")
    assert is_reference("a.b:c") and is_reference("./f.py:c") and is_reference(len)


@pytest.mark.parametrize("value", ["./mine.py:reward", "mine:reward"])
def test_a_file_and_a_module_give_the_object_and_its_name_again(project, value):
    write(project, "def reward(completion, record):\n    return 1.0\n")
    found = resolve("reward.function", value, takes=TAKES)
    assert found(None, None) == 1 and name_of(found) == value
    assert resolve("reward.function", found, takes=TAKES) is found


def test_a_module_that_another_file_imports_is_found_in_the_project(project):
    write(project, "SHARE = 0.5\n", "helper.py")
    write(project, "from helper import SHARE\n")
    assert resolve("reward.function", "./mine.py:SHARE", takes=TAKES) == 0.5


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nowhere_at_all:reward", 'there is no module "nowhere_at_all"'),
        ("./nowhere.py:reward", "there is no file"),
        ("./mine.py:other", 'has no "other". It has reward'),
        ("./mine.py:", "names no object"),
        (":reward", "names no object"),
        ("../outside.py:reward", "lies outside of the project"),
        (
            "./broken.py:reward",
            'raised ZeroDivisionError: division by zero (broken.py, line 2: "1 / 0")',
        ),
        ("./exits.py:reward", "importing it raised SystemExit"),
        ("./needs.py:reward", "importing it raised ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_found_says_why_and_what_to_do(project, value, words):
    write(project, "def reward(completion, record):\n    return 1.0\n")
    write(project, "x = 1\n1 / 0\n", "broken.py")
    write(project, "raise SystemExit(3)\n", "exits.py")
    write(project, "import nothing_of_that_name\n", "needs.py")
    (project.parent / "outside.py").write_text("reward = 1\n")
    assert words in refused(value)


def test_a_file_that_raised_may_be_fixed_and_tried_again(project):
    write(project, "1 / 0\n")
    refused("./mine.py:reward")
    write(project, "reward = 7\n")
    assert resolve("reward.function", "./mine.py:reward", takes=TAKES) == 7


def test_an_object_that_no_import_finds_is_written_so_that_reading_says_so():
    inner = lambda completion, record: 1.0  # noqa: E731
    assert name_of(inner).startswith("python:")
    assert "given this object from Python" in refused(name_of(inner))
    assert name_of(types) == "python:types" and name_of("bridge") == "bridge"


def call(function, names=2, **more):
    check_call("reward.function", function, function, takes=TAKES, names=names, **more)


def test_a_signature_is_shown_beside_the_expected_one():
    call(lambda a, b: 1.0)
    call(lambda *rest: 1.0)
    call(lambda a, b, cap=1.0: 1.0, settings={"cap": 2.0})
    with pytest.raises(InputError, match=r"its signature is \(a\), and reward.function takes"):
        call(lambda a: 1.0)
    with pytest.raises(InputError, match="with the settings cap. Change"):
        call(lambda a, b: 1.0, settings={"cap": 2.0})
    with pytest.raises(InputError, match="is int, not a function"):
        call(3)
