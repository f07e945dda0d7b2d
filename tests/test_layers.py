"""The import rule: lower layers never import higher ones, and siblings never meet.

L0  core config interfaces errors pages programs    L1  cot data models parallel rollout training
L2  stages, which wire L1                      L3  the command lines
"""

import ast
import sys
import typing
from pathlib import Path

import pytest

from cotjax.config import StageName

PACKAGE = Path(__file__).parents[1] / "cotjax"
LAYERS = {
    **dict.fromkeys(["", "core", "config", "interfaces", "errors", "pages", "programs"], 0),
    **dict.fromkeys(["cot", "data", "models", "parallel", "rollout", "training"], 1),
    "stages": 2,
    **dict.fromkeys(
        ["train", "evaluate", "plan", "export", "report", "generate", "teach", "rationales"], 3
    ),
}
# `import cotjax.core` must stay light, and `cotjax.cot` must run without JAX.
THIRD_PARTY = {
    "core": {"jax", "numpy", "jaxtyping"},
    "interfaces": {"jax", "numpy", "jaxtyping"},
    "config": {"tyro", "tomli_w"},
    "errors": set(),
    "pages": set(),
    "programs": {"jax"},
    "cot": {"numpy", "math_verify"},
}


def unit(module):
    """The layer's unit that a dotted module belongs to: its folder or file in the package."""
    return module.split(".")[1] if "." in module else ""


def imports(tree):
    """Every imported module of a file, also those inside functions; relative ones as "."."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom):
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
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
    if there not in LAYERS:
        return f"{imported} is in no layer"
    if here == there == "stages":
        # The package lists its stages, and every stage may use what they have in common.
        allowed = importer == "cotjax.stages" or imported.split(".")[-1] not in STAGE_FILES
        return None if allowed else f"{importer}: a stage may not import {imported}"
    if here == "core" and there != "core":
        return f"{importer}: core may not import {imported}"
    if LAYERS[here] == LAYERS[there] == 1 and here != there:
        return f"{importer}: may not import its sibling {imported}; wire them in stages/"
    if there == "stages" and LAYERS[here] != 3:
        return f"{importer}: only the command line may import {imported}"
    if LAYERS[there] > LAYERS[here]:
        return f"{importer} is in layer {LAYERS[here]}: {imported} is above it"
    return None


# Files of cotjax/stages that are a stage; the others are what stages have in common.
STAGE_FILES = {*typing.get_args(StageName)}
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    importer = ".".join(part for part in parts if part != "__init__")
    assert unit(importer) in LAYERS, f"{importer} is in no layer; add it to LAYERS"
    found = {complaint(importer, name) for name in imports(ast.parse(path.read_text("utf-8")))}
    assert not found - {None}


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cotjax.core.grpo", "flax"),
        ("cotjax.core.grpo", "optax"),
        ("cotjax.core.grpo", "cotjax.errors"),
        ("cotjax.core.grpo", "cotjax.stages.grpo"),
        ("cotjax.cot.answers", "jax"),
        ("cotjax.config", "jax"),
        ("cotjax.interfaces", "cotjax.models.transformer"),
        ("cotjax.rollout.engine", "cotjax.models.transformer"),
        ("cotjax.training.loop", "cotjax.stages.grpo"),
        ("cotjax.training.loop", "cotjax.report"),
        ("cotjax.stages.grpo", "cotjax.stages.sft"),
        ("cotjax.stages.common", "cotjax.stages.sft"),
        ("cotjax.stages.grpo", "cotjax.train"),
        ("cotjax.data.encode", "."),
        ("cotjax", "cotjax.data"),
    ],
)
def test_the_rule_forbids(importer, imported):
    assert complaint(importer, imported)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cotjax.core.grpo", "cotjax.core.logprobs"),
        ("cotjax.core.grpo", "functools"),
        ("cotjax.models.transformer", "flax"),
        ("cotjax.models.transformer", "cotjax.models.attention"),
        ("cotjax.models.transformer", "cotjax.errors"),
        ("cotjax.stages.grpo", "cotjax.rollout.engine"),
        ("cotjax.stages", "cotjax.stages.grpo"),
        ("cotjax.stages.grpo", "cotjax.stages.common"),
        ("cotjax.train", "cotjax.stages.grpo"),
        ("cotjax.train", "cotjax.report"),
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
