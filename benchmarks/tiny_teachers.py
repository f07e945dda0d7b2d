"""Trains the student and the three teachers of configs/tiny_clpd.toml and exports them.

    python benchmarks/tiny_teachers.py --out teachers

A teacher that is there already is left alone, so a run that was stopped is continued.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
TINY = ROOT / "cotjax" / "assets" / "tiny"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A teacher's size and schooling."""

    layers: int
    width: int
    steps: int
    hardest: int  # problem that it has seen, in steps

    def shape(self) -> dict:
        """What differs from the tiny student's config.json."""
        heads = self.width // 32
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        }


RECIPES = {
    "student": Recipe(layers=2, width=64, steps=300, hardest=2),
    "small": Recipe(layers=2, width=96, steps=300, hardest=3),
    "medium": Recipe(layers=3, width=128, steps=500, hardest=4),
    "large": Recipe(layers=4, width=160, steps=800, hardest=5),
}


def make(name: str, out: pathlib.Path) -> None:
    """Trains and exports one teacher."""
    if (out / name).exists():
        return
    recipe, shape = RECIPES[name], out / "shapes" / name
    shape.mkdir(parents=True, exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / file, shape / file)
    config = json.loads((TINY / "config.json").read_text()) | recipe.shape()
    (shape / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    run = out / "runs" / name
    settings = {
        "--config": ROOT / "configs" / "tiny_teachers.toml",
        "--model.path": shape,
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("teachers"))
    parser.add_argument("--only", choices=RECIPES, help="one of them")
    options = parser.parse_args()
    for name in [options.only] if options.only else RECIPES:
        make(name, options.out)


if __name__ == "__main__":
    main()
