"""Names of a user's objects: what is found, what config.toml writes, and every way to be wrong."""

import importlib
import pathlib
import sys
import types

import pytest

from cotjax.config.reference import check_call, is_reference, name_of, resolve, signature_of
from cotjax.errors import InputError

KEY = "reward.function"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    pathlib.Path("own.py").write_text("def f(a, b): return 1.0\nclass C: pass\nOBJECT = C()\n")
    return tmp_path


def refused(value):
    with pytest.raises(InputError) as error:
        resolve(KEY, value, takes="(a, b) -> float")
    return str(error.value)


def test_a_word_is_no_reference_and_all_else_is():
    assert not is_reference("bridge")
    assert is_reference("./own.py:f") and is_reference(print) and is_reference([])


def test_a_file_of_the_project_is_found_and_read_once():
    found = resolve(KEY, "./own.py:f", takes="")
    assert found(1, 2) == 1.0
    assert resolve(KEY, "./own.py:f", takes="") is found


def test_files_whose_paths_look_alike_are_two(project):
    for place in ("one_two/own.py", "one/two_own.py"):
        (project / place).parent.mkdir()
        (project / place).write_text(f"def f(a, b): return {place!r}\n")
    found = [resolve(KEY, f"./{one}:f", takes="") for one in ("one_two/own.py", "one/two_own.py")]
    assert [name_of(one) for one in found] == ["./one_two/own.py:f", "./one/two_own.py:f"]
    assert resolve(KEY, "./one_two/own.py:f", takes="") is found[0]


@pytest.mark.parametrize("value", ["./own:f", "sub/own:f", "../own:f"])
def test_a_file_without_its_ending_is_told_how_it_is_named(value):
    where = value.removesuffix(":f")
    assert f'a file is named with its ending. Write "{where}.py:f", or' in refused(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("async def f(a, b): return 1.0", "an async function"),
        ("def f(a, b): yield 1.0", "a function with yield"),
        ("async def f(a, b): yield 1.0", "an async function with yield"),
        ("class C:\n    async def __call__(self, a, b): return 1.0\nf = C()", "an async function"),
    ],
)
def test_what_gives_no_result_when_it_is_called_is_refused(text, kind):
    pathlib.Path("own.py").write_text(text + "\n")
    found = resolve(KEY, "./own.py:f", takes="")
    with pytest.raises(InputError) as error:
        check_call(KEY, "./own.py:f", found, takes="(a, b) -> float", names=2)
    assert f"is {kind}, which gives no result when it is called." in str(error.value)
    assert "Make it a plain function" in str(error.value)


def test_a_file_that_has_changed_is_read_again():
    assert resolve(KEY, "./own.py:f", takes="")(1, 2) == 1.0
    pathlib.Path("own.py").write_text("def f(a, b): return 22.0\n")
    assert resolve(KEY, "./own.py:f", takes="")(1, 2) == 22.0


def test_a_module_on_the_path_is_found(project):
    (project / "mine_on_path").mkdir()
    (project / "mine_on_path" / "__init__.py").touch()
    (project / "mine_on_path" / "parts.py").write_text("def g(a, b): return 2.0\n")
    importlib.invalidate_caches()
    assert resolve(KEY, "mine_on_path.parts:g", takes="")(1, 2) == 2.0
    # A module itself is an object too, also where nobody has imported it yet.
    found = resolve(KEY, "mine_on_path:parts", takes="")
    assert isinstance(found, types.ModuleType) and name_of(found) == "mine_on_path:parts"


def test_a_file_may_import_another_one_of_the_project():
    pathlib.Path("helper_of_own.py").write_text("SHARE = 0.5\n")
    pathlib.Path("own.py").write_text("from helper_of_own import SHARE\n")
    assert resolve(KEY, "./own.py:SHARE", takes="") == 0.5


@pytest.mark.parametrize("name", ["f", "C", "OBJECT"])
def test_what_a_file_holds_has_the_name_that_finds_it(name):
    found = resolve(KEY, f"./own.py:{name}", takes="")
    assert name_of(found) == f"./own.py:{name}"


@pytest.mark.parametrize("value", [lambda: 0, object(), [1]])
def test_what_no_import_finds_is_marked(value):
    assert name_of(value).startswith("python:")
    said = refused(name_of(value))
    assert "cotjax.train(config, reward=…)" in said and "from Python" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (":f", "names no object. Write package.module:name or ./file.py:name"),
        ("./own.py:", "names no object"),
        ("./own.py:f:f", "names no object"),
        ("./own.py:g", 'has no "g". It has f, C, OBJECT; reward.function takes (a, b) -> float'),
        ("./none.py:f", "there is no file"),
        ("no_such_package.mod:f", 'there is no module "no_such_package". Install it'),
        ("os.nothing:f", 'there is no module "os.nothing"'),
    ],
)
def test_what_is_not_there_is_refused(value, said):
    message = refused(value)
    assert message.startswith(f'{KEY} = "{value}": ') and said in message


def test_a_file_outside_of_the_project_is_refused(tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "own.py"
    other.write_text("f = print\n")
    for path in (other, pathlib.Path("..") / other.parent.name / "own.py"):
        assert "lies outside of the project" in refused(f"{path}:f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nraise ValueError('no licence')\n", "raised ValueError: no licence"),
        ("1 / 0\n", "raised ZeroDivisionError"),
        ("import no_such_package\n", "raised ModuleNotFoundError"),
        ("def f(:\n", "raised SyntaxError"),
        ("raise SystemExit(3)\n", "raised SystemExit"),
    ],
)
def test_what_raises_while_it_is_imported_shows_its_last_line(text, said):
    pathlib.Path("broken.py").write_text(text)
    message = refused("./broken.py:f")
    assert said in message
    line = text.splitlines()[-1]
    assert f'(broken.py, line {len(text.splitlines())}: "{line}"). Fix it there.' in message
    pathlib.Path("broken.py").write_text("f = 3\n")  # and is tried again
    assert resolve(KEY, "./broken.py:f", takes="") == 3


def test_a_signature_is_shown_beside_the_expected_one():
    with pytest.raises(InputError) as error:
        check_call(KEY, "./own.py:f", lambda only: 0, takes="(a, b) -> float", names=2)
    assert str(error.value) == (
        'reward.function = "./own.py:f": its signature is (only), and reward.function takes '
        "(a, b) -> float. Change its parameters."
    )


def test_what_is_no_function_is_refused():
    with pytest.raises(InputError, match=r"is int, not a function\. reward\.function takes \(a\)"):
        check_call(KEY, "./own.py:f", 3, takes="(a)", names=1)


def test_keywords_are_checked_with_the_rest():
    def term(a, *, cap):
        return a + cap

    check_call(KEY, term, term, takes="(a)", names=1, settings={"cap": 1})
    for settings in ({}, {"cup": 1}):
        with pytest.raises(InputError, match=r"its signature is \(a, \*, cap\)"):
            check_call(KEY, term, term, takes="(a)", names=1, settings=settings)


def test_a_function_in_c_without_a_signature_passes():
    assert signature_of(max) is None
    check_call(KEY, max, max, takes="(a, b)", names=2)
