"""The documentation site builds strictly, without the network, and names every page."""

import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

pytest.importorskip("sphinx", reason="needs cotjax[docs]")
pytest.importorskip("furo", reason="needs cotjax[docs]")
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning fails."""
    out, began = tmp_path_factory.mktemp("site"), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", str(out)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120  # 12 s on an idle core
    return out


def test_every_page_is_there_and_listed_for_language_models(site):
    pages = [page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts]
    names = {str(page.relative_to(ROOT / "docs"))[:-3] for page in pages}
    assert all((site / f"{name}.html").is_file() for name in names)
    listed = re.findall(r"^- \[(.+?)\]\((\S+)\.md\): (.+)$", (site / "llms.txt").read_text(), re.M)
    assert {name for _, name, _ in listed} == names
    assert all((site / f"{name}.md").is_file() for name in names)


def test_a_page_loads_nothing_from_elsewhere(site):
    loads = re.compile(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:)?//', re.I)
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text("utf-8")), page.name


def test_what_is_made_from_the_code_is_in_the_pages(site):
    text = (site / "configuration.html").read_text("utf-8")
    assert "rollout.group_size" in text
    assert "no_signal" in (site / "metrics.html").read_text("utf-8")
    core = (site / "api" / "core.html").read_text("utf-8")
    assert 'id="cotjax.core.clipped_surrogate"' in core and "Schulman" in core


def test_equations_are_mathml_and_code_stands_beside_them(site):
    text = (site / "methods" / "grpo.html").read_text("utf-8")
    assert text.count("<math") > 8 and "importance_ratio" in text
    assert "\\frac" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
