"""Makes the notebooks of this folder from their sources: `python notebooks/build.py [NAME ...]`.

A source is a Python file whose cells begin with `# %%` or `# %% [markdown]`. Each notebook gets the
same first cells, which install cotjax where it is missing and choose how figures look. It is
executed in a fresh kernel and stored with what that kernel showed. Needs cotjax[test].
"""

import argparse
import os
import pathlib
import re
import tomllib

import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in (HERE / "source").glob("*.py"))
COLAB = "https://colab.research.google.com/github"
INSTALL = """\
# Installs cotjax where it is missing, as in Colab, with what a TPU or a GPU needs if there is one.
REPOSITORY = "{repository}"  # address of its repository, or a folder with a checkout
import importlib.util
import pathlib
import shutil
import subprocess
import sys

if importlib.util.find_spec("cotjax") is None:
    assert REPOSITORY, "Set REPOSITORY to the address of the repository that this notebook is from."
    chips = [*pathlib.Path("/dev").glob("accel[0-9]*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    extra = "[tpu]" if chips else "[cuda]" if shutil.which("nvidia-smi") else ""
    remote = f"cotjax{{extra}} @ git+{{REPOSITORY}}"
    package = remote if "://" in REPOSITORY else f"{{REPOSITORY}}{{extra}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)

from cotjax.startup import set_up

set_up()  # before JAX is imported
import jax

print(f"This runs on: {{jax.devices()[0].platform}}")"""
LOOK = """\
import contextlib
import io
import warnings

import matplotlib.pyplot as plt

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm without ipywidgets

BLUE, ORANGE, GREEN, PURPLE, GREY = "#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#718096"
plt.rcParams |= {
    "figure.dpi": 80,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "legend.frameon": False,
}


@contextlib.contextmanager
def quiet():
    # A run prints a line for each step. Leave `with quiet():` out to see them.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield"""


def repository() -> str:
    """The address of the repository, as pyproject.toml has it; empty if it has none."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "").removesuffix(".git").rstrip("/")


def colab_line(name: str, address: str) -> str:
    """How to open a notebook in Colab: by a link, where the repository's address is known."""
    path = f"notebooks/{name}.ipynb"
    if address.startswith("https://github.com/"):
        whole = f"{COLAB}/{address.removeprefix('https://github.com/')}/blob/main/{path}"
        return f"[**Open in Colab**]({whole}): the next cell installs cotjax from the repository."
    return (
        f"[**Open in Colab**]({COLAB}): give it this repository's address and choose `{path}`. Set "
        "`REPOSITORY` in the next cell to that address, and it installs cotjax from there."
    )


def cells(name: str) -> list[tuple[str, str]]:
    """(kind, text) of a notebook's cells, kind being "markdown" or "code"."""
    text = (HERE / "source" / f"{name}.py").read_text("utf-8")
    found = []
    for kind, body in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", text, re.M | re.S):
        if kind:
            body = re.sub(r"^# ?", "", body, flags=re.M)
        found.append(("markdown" if kind else "code", body.strip("\n")))
    (_, title), *rest = found
    address = repository()
    return [
        ("markdown", f"{title}\n\n{colab_line(name, address)}"),
        ("code", INSTALL.format(repository=address)),
        ("code", LOOK),
        *rest,
    ]


def notebook(name: str) -> nbformat.NotebookNode:
    """A notebook without outputs."""
    made = nbformat.v4.new_notebook()
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    made.cells = [
        make[kind](text, id=f"cell-{place:02}") for place, (kind, text) in enumerate(cells(name))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return made


def execute(made: nbformat.NotebookNode, *, timeout: int = 600, **environment: str) -> None:
    """Runs all cells in a fresh kernel that finds this checkout first, in the checkout's folder."""
    client = nbclient.NotebookClient(
        made,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(HERE.parent)}},
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(HERE.parent), **environment})


def main() -> None:
    """Builds those that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        made = notebook(name)
        execute(made)
        made.metadata = {key: made.metadata[key] for key in ("kernelspec",)}
        made.metadata["language_info"] = {"name": "python"}
        path = HERE / f"{name}.ipynb"
        nbformat.write(made, path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
