"""Wheel and sdist hold everything that a run needs, and run alone, in a folder of somebody else.

The environment is new and holds the wheel; its requirements are those installed here, which are
read but for cotjax itself, so that nothing large is installed again.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
CONFIG = """\
stage = "grpo"
steps = 1
name = "one"
mesh = { data = 1 }
rollout = { prompts = 2, group_size = 2, max_new_tokens = 8 }
eval = { problems = 2, samples = 0, max_new_tokens = 8 }
"""
# Runs a command as where nothing is installed but what cotjax requires.
RUNNER = """\
import importlib, importlib.machinery, importlib.metadata, importlib.util, json, re, sys

needed = set(json.loads(sys.argv[1]))
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
owners = importlib.metadata.packages_distributions()
hidden = {top for top, names in owners.items() if not needed & set(map(plain, names))}


class Visible(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)


finders = sys.meta_path
finders[finders.index(importlib.machinery.PathFinder)] = Visible
import cotjax

assert "wheel-environment" in cotjax.__file__, cotjax.__file__
assert importlib.util.find_spec("nbclient") is None  # which a test needs, and no run
sys.exit(importlib.import_module(f"cotjax.{sys.argv[2]}").main(sys.argv[3:]))
"""


def run(*words, **more):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def tracked(*folders):
    """Paths and contents of files that git knows."""
    names = run("git", "-C", ROOT, "ls-files", "-z", *folders).split("\0")
    return {name: (ROOT / name).read_bytes() for name in names if name}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel of that sdist, the new environment's Python)."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout, with which the packages are compared")
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "venv", folder / "wheel-environment")
    python = folder / "wheel-environment" / "bin" / "python"
    wanted = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "hatchling"], capture_output=True, text=True
    )
    if wanted.returncode:
        pytest.skip(f"hatchling cannot be installed here: {wanted.stderr[-200:]}")
    build = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    run(python, "-c", build, folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    pip = python, "-m", "pip", "--disable-pip-version-check"
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(*pip, "install", "--no-deps", wheel, cwd=folder)
    (site,) = (folder / "wheel-environment" / "lib").glob("python*/site-packages")
    here = Path(importlib.metadata.distribution("jax").locate_file(""))
    (site / "requirements.pth").write_text(f"{here}\n")
    return sdist, wheel, python


def test_the_wheel_of_the_sdist_holds_the_package_and_what_launch_fills_in(built):
    with zipfile.ZipFile(built[1]) as wheel:
        inside = {name: wheel.read(name) for name in wheel.namelist()}
    packed = {name: text for name, text in inside.items() if ".dist-info/" not in name}
    launch = {f"cotjax/assets/{name}": text for name, text in tracked("launch").items()}
    assert packed == tracked("cotjax") | launch
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_sdist_holds_the_folders_that_its_tests_read(built):
    with tarfile.open(built[0]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    folders = ("cotjax", "configs", "docs", "launch", "notebooks", "benchmarks", "tests")
    assert (
        not tracked(*folders, "*.md", "CITATION.cff", "LICENSE", "pyproject.toml").keys() - inside
    )


def closure(name):
    """What a distribution needs on this machine, itself among it; extras only where one asks."""
    found, left = set(), [(name, ())]
    while left:
        name, extras = left.pop()
        plain = re.sub(r"[-_.]+", "-", name).lower()
        if (plain, extras) in found:
            continue
        found.add((plain, extras))
        for text in importlib.metadata.distribution(name).requires or ():
            one = Requirement(text)
            asked = [{"extra": extra} for extra in extras or ("",)]
            if one.marker is None or any(map(one.marker.evaluate, asked)):
                left.append((one.name, tuple(sorted(one.extras))))
    return sorted({name for name, _ in found})


def test_it_runs_in_another_folder_on_its_base_requirements_alone(built, tmp_path):
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "runner.py").write_text(RUNNER)
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {key: one for key, one in os.environ.items() if key not in hidden}
    needed = json.dumps(closure("cotjax"))

    def cotjax(tool, *flags):
        words = built[2], "-I", "runner.py", needed, tool, *flags
        return run(*words, cwd=tmp_path, env=environment)

    cotjax("train", "--config=run.toml")
    page = (tmp_path / "runs" / "one" / "report.html").read_text("utf-8")
    assert "vega" in page and "</style>" in page  # the report's assets
    cotjax("export", "--checkpoint=runs/one", "--out=out")
    assert {"tokenizer.json", "README.md"} <= set(os.listdir(tmp_path / "out"))
    job = cotjax("launch", "slurm", "--config=run.toml", "--topology=h100:1", "--dry-run")
    assert "#SBATCH --nodes=1\n" in job


def test_the_console_script_lists_the_commands(built, tmp_path):
    shown = run(built[2].parent / "cotjax", "--help", cwd=tmp_path)
    assert "launch" in shown and "train" in shown
