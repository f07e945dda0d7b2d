"""Executes every notebook, so that a reader never meets a cell that raises, and looks at each."""

import base64
import importlib.util
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import types

import nbclient
import nbformat
import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks" / "build.py")
assert SPEC and SPEC.loader
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
QUICK = ("losses_by_hand",)  # the others train, or plan: half a minute to a minute

each_notebook = pytest.mark.parametrize("name", build.NAMES)
each_to_run = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in build.NAMES],
)


def stored(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def execute(notebook):
    """As the builder does, with the programs that other notebooks have compiled, on one device."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    one = " ".join(flag for flag in flags if "device_count" not in flag)
    build.execute(notebook, XLA_FLAGS=one)


@each_to_run
def test_every_cell_runs(name):
    execute(stored(name))


@each_notebook
def test_it_is_stored_with_the_outputs_of_one_clean_run(name):
    path, notebook = ROOT / "notebooks" / f"{name}.ipynb", stored(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert notebook.metadata.kernelspec.name == "python3"
    text = json.dumps(notebook)
    assert str(pathlib.Path.home()) not in text and str(ROOT) not in text and "/tmp/" not in text
    assert path.stat().st_size < 500_000


@each_notebook
def test_it_is_its_sources(name):
    found = [(cell.cell_type, cell.source) for cell in stored(name).cells]
    assert found == build.cells(name), f"Run python notebooks/build.py {name}."
    assert [cell.id for cell in stored(name).cells] == [f"cell-{n:02}" for n in range(len(found))]


def test_every_notebook_has_a_source_and_a_line_in_the_docs():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == build.NAMES
    page = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| \[.+?\]\(\.\./notebooks/(\w+)\.ipynb\) \| \w", page, re.M)) == (
        build.NAMES
    )


@each_notebook
def test_it_has_pictures_between_words(name):
    sizes = [
        struct.unpack(">II", base64.b64decode(output.data["image/png"])[16:24])
        for cell in stored(name).cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(sizes) >= 3 and all(300 < width < 1300 for width, _ in sizes)
    kinds = [kind for kind, _ in build.cells(name)]
    assert kinds[0] == "markdown" and kinds.count("markdown") >= 5


@each_notebook
def test_links_lead_to_files(name):
    for kind, text in build.cells(name):
        for where in re.findall(r"\]\(([^)#\s]+)\)", text) if kind == "markdown" else ():
            if not where.startswith("http"):
                assert (ROOT / "notebooks" / where).exists(), where


def test_numbers_of_slices_are_those_of_the_results():
    cell = next(text for _, text in build.cells("plan_a_pod") if "BEFORE = {" in text)
    known = {}
    exec(cell.partition("figure, ")[0], known)
    results = (ROOT / "RESULTS.md").read_text("utf-8")
    for name, (used, capacity, sent) in known["BEFORE"].items():
        row = re.search(rf"^\| {name} \| (.+) \|$", results, re.M)[1].replace(",", "").split(" | ")
        numbers = [int(one.split()[1]) for one in (row[2], row[3], row[5])]
        assert row[0] == f"{used:.2f} of {capacity} GiB" and numbers == list(sent.values())


def test_a_failing_cell_fails():
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 == 2")])
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="AssertionError"):
        execute(broken)


# Colab.


def installed(monkeypatch, address, *, gpu=False):
    """What the first cell gives pip where cotjax is missing."""
    code = build.INSTALL.format(repository=address).partition("from cotjax")[0]
    asked = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda words, check: asked.append(words))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if gpu else None)
    monkeypatch.setattr(pathlib.Path, "glob", lambda *_: iter(()))  # no TPU
    exec(code, types.ModuleType("__main__").__dict__)
    return asked[0][1:] if asked else None


def test_the_first_cell_installs_from_the_repository(monkeypatch):
    address = "https://github.com/owner/cotjax"
    *pip, package = installed(monkeypatch, address, gpu=True)
    assert pip == ["-m", "pip", "install", "-q"]
    wanted = Requirement(package)
    assert (wanted.name, wanted.extras, wanted.url) == ("cotjax", {"cuda"}, f"git+{address}")
    assert Requirement(installed(monkeypatch, address)[-1]).extras == set()
    assert installed(monkeypatch, "./cotjax", gpu=True)[-1] == "./cotjax[cuda]"
    with pytest.raises(AssertionError, match="Set REPOSITORY to the address"):
        installed(monkeypatch, "")


def test_colab_opens_it_by_a_link_where_the_address_is_known():
    line = build.colab_line("clpd", "https://github.com/owner/cotjax")
    assert (
        "(https://colab.research.google.com/github/owner/cotjax/blob/main/notebooks/clpd.ipynb)"
        in (line)
    )
    line = build.colab_line("clpd", "")
    assert "notebooks/clpd.ipynb" in line and "REPOSITORY" in line
