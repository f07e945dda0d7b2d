"""The import rule: a name imports only what stands before it in one list, and its own folder."""

import ast
import itertools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, TESTS = ROOT / "cotjax", ROOT / "tests"
# A run is data walking one way. Names of one line never import each other.
ORDER = (
    ("errors",),
    ("storage",),
    ("progress",),
    ("findings",),
    ("checksums",),
    ("remote",),
    ("interfaces",),
    ("core",),
    ("startup",),
    ("start_profile",),
    ("config",),
    ("hub",),
    ("metadata",),
    ("cot", "data", "models", "parallel", "rollout", "training"),
    ("machine",),
    ("report",),
    ("student",),
    ("teachers",),
    ("curriculum",),
    ("stages",),
    ("planning",),
    ("launching",),
    ("run",),
    (
        *(
            "train",
            "evaluate",
            "compare",
            "lm_eval",
            "generate",
            "export",
            "rationales",
            "cache_logits",
            "plan",
            "launch",
            "replay",
        ),
        *("experiment", "doctor", "__init__", "__main__"),
    ),
)
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}
# `import cotjax.core` must stay light, and `cotjax.cot` must run without JAX.
THIRD_PARTY = {
    "core": {"jax", "numpy", "jaxtyping"},
    "interfaces": {"jax", "numpy", "jaxtyping"},
    "config": {"tomli_w"},
    "hub": {"huggingface_hub"},
    "metadata": set(),
    "errors": set(),
    "storage": set(),
    "checksums": set(),
    "remote": {"fsspec", "filelock"},
    "startup": {"jax"},
    "progress": {"rich"},
    "findings": set(),
    "cot": {"numpy", "math_verify"},
    "__init__": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(module):
    """The name in the list that a dotted module belongs to: its folder or file in the package."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(tree):
    """Every imported module of a file, also those inside functions; relative ones as "."."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                if name != "cotjax.__version__":  # there before anything else is
                    yield name if is_module(name) else node.module


def is_module(name):
    """Whether a dotted name is a file or folder of the package."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def complaint(importer, imported):
    """Why `importer` may not import `imported`, both dotted; None if it may."""
    here, root = unit(importer), imported.split(".")[0]
    if root == "":
        return f"{importer}: relative import; write the whole name"
    if root != "cotjax":
        allowed = here not in THIRD_PARTY or root in sys.stdlib_module_names | THIRD_PARTY[here]
        return None if allowed else f"{importer}: {here} may not import {imported}"
    there = unit(imported)
    if there not in PLACE:
        return f"{imported} is not in the list"
    if here == there or PLACE[there] < PLACE[here]:
        return None
    # The package gives the API on first use, and each tool is a command's own business.
    if here == "__init__" or PLACE[here] == PLACE[there] == len(ORDER) - 1:
        return None
    return f"{importer}: {here} may not import {imported}, which stands beside or behind it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_back_in_the_list(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    importer = ".".join(part for part in parts if part != "__init__")
    assert unit(importer) in PLACE, f"{importer} is not in the list; add it to ORDER"
    found = {complaint(importer, name) for name in imports(ast.parse(path.read_text("utf-8")))}
    assert not found - {None}


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cotjax.core.grpo", "flax"),
        ("cotjax.core.grpo", "optax"),
        ("cotjax.core.grpo", "cotjax.config"),
        ("cotjax.core.grpo", "cotjax.stages.grpo"),
        ("cotjax.cot.answers", "jax"),
        ("cotjax.config", "jax"),
        ("cotjax.interfaces", "cotjax.models.transformer"),
        ("cotjax.rollout.engine", "cotjax.models.transformer"),
        ("cotjax.training.loop", "cotjax.stages.grpo"),
        ("cotjax.training.loop", "cotjax.report"),
        ("cotjax.student.load", "cotjax.teachers.pool"),
        ("cotjax.teachers.pool", "cotjax.curriculum.dataset"),
        ("cotjax.stages.grpo", "cotjax.run"),
        ("cotjax.run", "cotjax.train"),
        ("cotjax.data.encode", "."),
        ("cotjax", "flax"),
        ("cotjax.train", "cotjax.unknown"),
    ],
)
def test_the_rule_forbids(importer, imported):
    assert complaint(importer, imported)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cotjax.core.grpo", "cotjax.core.logprobs"),
        ("cotjax.core.grpo", "cotjax.errors"),
        ("cotjax.core.grpo", "functools"),
        ("cotjax.models.transformer", "flax"),
        ("cotjax.models.transformer", "cotjax.models.attention"),
        ("cotjax.models.formats.load", "cotjax.models.transformer"),
        ("cotjax.stages.grpo", "cotjax.rollout.engine"),
        ("cotjax.stages.grpo", "cotjax.stages.policy"),
        ("cotjax.curriculum.dataset", "cotjax.teachers.pool"),
        ("cotjax.train", "cotjax.run"),
        ("cotjax.run", "cotjax.report"),
        ("cotjax", "cotjax.run"),
    ],
)
def test_the_rule_allows(importer, imported):
    assert complaint(importer, imported) is None


def test_imports_are_seen_wherever_they_hide():
    source = """
from cotjax import data, errors
from cotjax.core.masking import widen
from . import sibling
def later():
    import jax.numpy as jnp
    from cotjax.models.attention import Causal
"""
    assert set(imports(ast.parse(source))) == {
        *("cotjax.data", "cotjax.errors", "cotjax.core.masking", "."),
        *("jax.numpy", "cotjax.models.attention"),
    }


def test_a_planted_import_is_found(tmp_path):
    planted = (PACKAGE / "core" / "grpo.py").read_text("utf-8") + "\nimport cotjax.stages.grpo\n"
    found = {complaint("cotjax.core.grpo", name) for name in imports(ast.parse(planted))}
    assert found - {None}


def test_every_module_has_a_test_file_of_its_name():
    missing = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if path.name not in ("__init__.py", "__main__.py")
        and not (
            ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        ).is_file()
    ]
    assert not missing


def classes(path):
    """Names of a file's public classes."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def test_no_two_classes_have_one_name():
    named = [(name, path) for path in FILES for name in classes(path) if not name.startswith("_")]
    named.sort(key=lambda pair: pair[0])
    twice = {
        name: [str(path.relative_to(PACKAGE)) for _, path in group]
        for name, pairs in itertools.groupby(named, key=lambda pair: pair[0])
        if len(group := list(pairs)) > 1
    }
    assert not twice
