"""The commit is that of the checkout that the package lies in, and of no other."""

import shutil
import subprocess

import pytest

from cotjax import __version__
from cotjax.run.commit import commit_of


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    return package


def test_it_is_that_of_the_checkout_and_tells_if_files_differ(checkout):
    commit = commit_of(checkout)
    assert len(commit) == 9 and int(commit, 16)
    (checkout / "__init__.py").write_text("1")
    assert commit_of(checkout) == f"{commit}+"


def test_what_no_checkout_tracks_has_the_version(checkout, tmp_path):
    installed = checkout.parent / "site-packages"
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    assert commit_of(installed) == __version__ == commit_of(tmp_path / "nowhere")


def test_without_git_it_is_the_version(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit_of(checkout) == __version__
