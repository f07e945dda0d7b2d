"""Makes three teachers, from weak to strong, and exports them.

    python benchmarks/tiny_teachers.py --out teachers                    # for tiny_clpd.toml
    python benchmarks/tiny_teachers.py --out teachers --family styles    # for experiments/clpd.toml
    python benchmarks/tiny_teachers.py --out teachers --family context   # for clpd_context.toml

Each is the built-in student grown by layers that change nothing at first, then trained on problems
up to its own size, for its own number of steps (configs/tiny_teachers.toml). Those of the family
"sizes" all write the concise style. Those of "styles" know words that the student has never read,
and the stronger one thinks aloud more. That of "context" is one model, the reader, which has
learned to write a solution whose first steps it is shown: `teachers/reader@0.5`. A teacher that is
there already is left alone, so a run that was stopped is continued.
"""

import argparse
import dataclasses
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import tomli_w
from safetensors.numpy import load_file, save_file

from cotjax import Config, load_records
from cotjax.data.prompts import FOLDER
from cotjax.interfaces import Record

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
    flags: tuple[str, ...] = ()  # of its style
    reads: int = 0  # training records whose prompts show a share of the steps; 0 = none do


NEW_WORDS = "--data.new-share=0.3", "--batch.size=4", "--batch.sequence-length=704"
LONG = "--eval.max-new-tokens=256", "--eval.max-prompt-tokens=112", *NEW_WORDS
ALOUD = "--data.style=deliberate", *LONG
CHECKS = tuple(
    f"--deliberate.{name}" for name in ("check=0.4", "recap=0.1", "restate=0.05", "final=0.2")
)
NO_TRIES = "--deliberate.wrong-try=0", "--deliberate.what-if=0"
READS = (*CHECKS, *NO_TRIES, "--data.new-share=0.3", "--data.style=deliberate")
READER = "--batch.size=6", "--batch.sequence-length=768", "--eval.problems=64"
LONG_PROMPTS = (
    "--rollout.max-prompt-tokens=448",
    "--eval.max-prompt-tokens=448",
    "--eval.max-new-tokens=256",
)
SHARES = 0.0, 0.25, 0.5, 0.75, 1.0  # of the steps that a reader is shown, each as often
SOME_TRIES = "--deliberate.wrong-try=0.15", "--deliberate.what-if=0.15"
FAMILIES = {
    "sizes": {
        "small": Recipe(layers=2, steps=30, hardest=2),
        "medium": Recipe(layers=3, steps=80, hardest=4),
        "large": Recipe(layers=4, steps=160, hardest=6),
    },
    "styles": {
        "plain": Recipe(2, 200, 3, ("--data.concise-share=0", *LONG)),
        "checking": Recipe(3, 400, 5, (*ALOUD, *CHECKS, *NO_TRIES)),
        "deliberate": Recipe(4, 800, 6, (*ALOUD, *CHECKS, *SOME_TRIES)),
    },
    "context": {
        "reader": Recipe(4, 1200, 6, (*READER, *LONG_PROMPTS), reads=8192),
    },
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


def make(name: str, recipe: Recipe, out: pathlib.Path) -> None:
    """Grows, trains and exports one teacher."""
    if (out / name).exists():
        return
    start, run = out / "grown" / name, out / "runs" / name
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
    if recipe.reads:
        settings |= shown_records(recipe, out / "runs" / f"{name}_data")
    flags = [str(word) for pair in settings.items() for word in pair]
    python("cotjax.train", *flags, *recipe.flags, *(["--resume"] if begun else []))
    python("cotjax.export", "--checkpoint", str(run), "--out", str(out / name))


def shown_records(recipe: Recipe, folder: pathlib.Path) -> dict[str, object]:
    """Writes records whose questions are prompts with a share of the steps; the keys for them."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, shown = folder / "plain.jsonl", folder / "shown.jsonl"
    sizes = "--data.min-steps=2", f"--data.max-steps={recipe.hardest}"
    count = f"--rationales.questions={recipe.reads}"
    python("cotjax.rationales", "--out", str(plain), count, *sizes, *READS)
    texts = tomllib.loads((FOLDER / "english.toml").read_text())
    own, draw, rows = texts["plain"], random.Random(0), []
    for line in plain.read_text().splitlines():
        row = json.loads(line)
        steps = row["answer"].splitlines()[:-1]
        first = steps[: int(draw.choice(SHARES) * len(steps) + 0.5)]
        listed = "\n".join(own["step"].format(step=step) for step in first)
        ask = own["hint"] if first else own["solve"]  # a newline ends both, which records drop
        rows.append(row | {"question": ask.format(question=row["question"], steps=listed)[:-1]})
    shown.write_text("".join(json.dumps(row) + "\n" for row in rows))
    templates = folder / "as_written.toml"
    templates.write_text(tomli_w.dumps(texts | {"plain": own | {"solve": "{question}\n"}}))
    return {"--data.source": "jsonl", "--data.path": shown, "--data.templates": templates}


def write_questions(out: pathlib.Path) -> None:
    """Writes questions for all seeds, whose texts the teachers write once, and held-out ones."""
    out.mkdir(parents=True, exist_ok=True)
    config = Config.for_stage("sft", data={"new_share": 0.3}, eval={"problems": 704})
    records, held_out = load_records(config)
    for name, some, count in (("questions", records, 1024), ("held_out", held_out, len(held_out))):
        found = [some[index] for index in range(count)]
        rows = ({"question": one.question, "answer": written(one)} for one in found)
        path = out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def written(record: Record) -> str:
    """A rationale as GSM8K writes it."""
    return "\n".join([*record.steps, f"#### {record.answer}"])


def python(module: str, *flags: str) -> None:
    """Runs a module of this package as its own process."""
    subprocess.run([sys.executable, "-m", module, *flags], check=True)


def main() -> None:
    """Makes those that are missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("teachers"))
    parser.add_argument("--family", choices=FAMILIES, default="sizes")
    parser.add_argument("--only", help="one of them, by its name")
    options = parser.parse_args()
    recipes = FAMILIES[options.family]
    if options.only and options.only not in recipes:
        parser.error(f"--only {options.only}: the family has {', '.join(recipes)}.")
    if options.family == "styles":
        write_questions(options.out)
    for name in [options.only] if options.only else recipes:
        make(name, recipes[name], options.out)


if __name__ == "__main__":
    main()
