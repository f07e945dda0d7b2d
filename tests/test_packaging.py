"""What pip installs: bounds that are tested, and the two ends that `.ci/run` tries."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

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


def test_the_quick_start_names_the_python_and_the_jax_that_are_tested():
    page = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    (lowest,) = bounds([one for one in PROJECT["dependencies"] if one.startswith("jax>")]).values()
    assert f"needs Python 3.11 or newer and JAX {lowest} or newer" in page
    assert f"with JAX {lowest} on Python 3.11" in page and "JAX (0." in page


def test_the_version_is_the_package_s():
    assert "version" in PROJECT["dynamic"] and re.fullmatch(r"\d+\.\d+\.\d+", cotjax.__version__)


# What a commit, a push and CI check.


def linters(lines):
    """Lint, format and types as (tool, what), whether they repair or only look."""
    found = set()
    for line in lines:
        words = [word for word in line.split() if word not in ("--fix", "--check", "--diff")]
        if words and words[0] in ("ruff", "pyright"):
            found.add(tuple(words))
    return found


def test_pre_commit_checks_what_ci_checks():
    file = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in file["repos"] for hook in repo["hooks"]]
    ours = linters(hook["entry"] for hook in hooks)
    assert ours == linters((ROOT / ".ci" / "run").read_text("utf-8").splitlines())
    assert ours == {("ruff", "check"), ("ruff", "format"), ("pyright",)}
    assert len(hooks) == len(ours)
    stages = {stage for hook in hooks for stage in hook.get("stages", file["default_stages"])}
    assert stages == set(file["default_install_hook_types"])  # what `pre-commit install` sets up
    for hook in hooks:  # the tools of [dev], in the version that CI has
        assert hook["language"] == "system"
        dev = PROJECT["optional-dependencies"]["dev"]
        assert any(one.startswith(hook["entry"].split()[0] + ">=") for one in dev)


def test_pre_commit_reads_its_file():
    clientlib = pytest.importorskip("pre_commit.clientlib", reason="needs cotjax[dev]")
    assert clientlib.load_config(str(ROOT / ".pre-commit-config.yaml"))


# How to cite it.


def test_the_citation_is_valid_and_names_both_papers():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cff["cff-version"] == "1.2.0" and cff["type"] == "software"
    assert {"message", "title", "authors", "version", "license"} <= cff.keys()
    assert cff["version"] == cotjax.__version__ and cff["license"] == PROJECT["license"]
    urls = {"https://arxiv.org/abs/2602.17686", "https://arxiv.org/abs/2605.11260"}
    assert {one["url"] for one in cff["references"]} == urls
    for one in cff["references"]:  # the keys that the format demands of a reference
        assert one["type"] == "article" and one["title"] and one["year"] == 2026
        assert all({"family-names", "given-names"} == set(author) for author in one["authors"])


def test_the_citation_meets_its_schema():
    cffconvert = pytest.importorskip("cffconvert", reason="cffconvert is not installed")
    cffconvert.Citation((ROOT / "CITATION.cff").read_text("utf-8")).validate()


# Issue templates.

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]
# What GitHub's schema allows; docs.github.com, "Syntax for GitHub's form schema".
ASKS = {"textarea": "label", "input": "label", "dropdown": "options", "checkboxes": "options"}
TOP = {"name", "description", "body", "title", "labels", "assignees", "projects", "type"}


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_is_one_that_github_shows(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    assert {"name", "description", "body"} <= form.keys() <= TOP
    asked = [one for one in form["body"] if one["type"] != "markdown"]
    assert asked and all(ASKS[one["type"]] in one["attributes"] for one in asked)
    ids = [one["id"] for one in asked]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", one) for one in ids)
    assert any(one.get("validations", {}).get("required") for one in asked)
    assert all("value" in one["attributes"] for one in form["body"] if one["type"] == "markdown")


def test_forms_ask_for_what_an_answer_needs():
    assert [path.stem for path in TEMPLATES] == ["bug", "config", "feature", "question"]
    texts = {path.stem: path.read_text("utf-8") for path in TEMPLATES}
    bug = {one.get("id"): one for one in yaml.safe_load(texts["bug"])["body"]}
    assert "python -m cotjax.doctor" in bug["doctor"]["attributes"]["description"]
    assert bug["doctor"]["validations"]["required"]
    assert yaml.safe_load(texts["config"])["blank_issues_enabled"] is False
    for text in texts.values():  # commands and files that are there
        for command in re.findall(r"python -m cotjax\.(\w+)", text):
            assert importlib.util.find_spec(f"cotjax.{command}"), command
        for page in re.findall(r"[\w/]+\.md", text):
            assert (ROOT / page).is_file(), page
