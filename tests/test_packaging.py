"""What pip installs: bounds that are tested, and the two ends that `.ci/run` tries."""

import re
import tomllib
from pathlib import Path

import cotjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Of the README's test command.
TESTED = ("gguf", "parquet", "tfds", "zst", "math", "track", "wandb", "test")


def bounds(requirements):
    """Name -> lower bound, with three numbers; requirements of the project itself are left out."""
    found = {}
    for requirement in requirements:
        name, rest = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(.*)", requirement).groups()
        if name != "cotjax":
            (low,) = re.findall(r">=([\d.]+)", rest)
            found[name] = low + ".0" * (2 - low.count("."))
    return found


def test_nothing_has_an_upper_bound():
    extras = PROJECT["optional-dependencies"].values()
    for requirement in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]:
        assert not set(requirement) & set("<~!"), requirement


def test_the_lowest_versions_under_test_are_the_lower_bounds():
    lines = (ROOT / ".ci" / "lowest.txt").read_text("utf-8").splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = [one for name in TESTED for one in PROJECT["optional-dependencies"][name]]
    expected = bounds([*PROJECT["dependencies"], *extras])
    assert lowest == expected | {"jaxlib": expected["jax"]}


def test_python_begins_where_the_tests_begin():
    assert PROJECT["requires-python"] == ">=3.11"
    assert "find_python 11" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_version_is_the_package_s():
    assert "version" in PROJECT["dynamic"] and re.fullmatch(r"\d+\.\d+\.\d+", cotjax.__version__)
