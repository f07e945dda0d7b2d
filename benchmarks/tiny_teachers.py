"""Makes the three teachers of configs/tiny_clpd.toml, from weak to strong, and exports them.

    python benchmarks/tiny_teachers.py --out teachers

Each is the built-in student grown by layers that change nothing at first, then trained on the
concise style (configs/tiny_teachers.toml), on problems up to its own size, for its own number of
steps. A teacher that is there already is left alone, so a run that was stopped is continued.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "cotjax" / "assets" / "tiny"
# What a layer adds to the residual stream ends in these; zeros add nothing.
LAST_OF_LAYER = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A teacher's size and training."""

    layers: int
    steps: int
    hardest: int  # problem that it has seen, in steps


RECIPES = {
    "small": Recipe(layers=2, steps=30, hardest=2),
    "medium": Recipe(layers=3, steps=80, hardest=4),
    "large": Recipe(layers=4, steps=160, hardest=6),
}


def grow(layers: int, out: pathlib.Path) -> None:
    """Writes the built-in student with more layers, which at first change nothing."""
    config = json.loads((TINY / "config.json").read_text())
    tensors = load_file(TINY / "model.safetensors")
    last = f"model.layers.{config['num_hidden_layers'] - 1}."
    for layer in range(config["num_hidden_layers"], layers):
        for name in [name for name in tensors if name.startswith(last)]:
            rest = name.removeprefix(last)
            copy = np.zeros_like if rest in LAST_OF_LAYER else np.copy
            tensors[f"model.layers.{layer}.{rest}"] = copy(tensors[name])
    shutil.copytree(TINY, out, dirs_exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config["num_hidden_layers"] = layers
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def make(name: str, out: pathlib.Path) -> None:
    """Grows, trains and exports one teacher."""
    if (out / name).exists():
        return
    recipe, start, run = RECIPES[name], out / "grown" / name, out / "runs" / name
    grow(recipe.layers, start)
    settings = {
        "--config": ROOT / "configs" / "tiny_teachers.toml",
        "--model.path": start,
        "--output": run.parent,
        "--name": name,
        "--steps": recipe.steps,
        "--data.max-steps": recipe.hardest,
    }
    begun = any((run / "checkpoints").glob("*")) if run.exists() else False
    if run.exists() and not begun:
        shutil.rmtree(run)
    flags = [str(word) for pair in settings.items() for word in pair]
    python("cotjax.train", *flags, *(["--resume"] if begun else []))
    python("cotjax.export", "--checkpoint", str(run), "--out", str(out / name))


def python(module: str, *flags: str) -> None:
    """Runs a module of this package as its own process."""
    subprocess.run([sys.executable, "-m", module, *flags], check=True)


def main() -> None:
    """Makes those that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("teachers"))
    parser.add_argument("--only", choices=RECIPES, help="one of them")
    options = parser.parse_args()
    for name in [options.only] if options.only else RECIPES:
        make(name, options.out)


if __name__ == "__main__":
    main()
