"""Models that people bring and that are not what they seem, made of the tiny student."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def copy_of(student, folder):
    """A copy of a student's folder."""
    shutil.copytree(student, folder)
    return Path(folder)


def without_tokenizer(student, folder):
    path = copy_of(student, folder)
    (path / "tokenizer.json").unlink()
    return path


def with_nan(student, folder):
    """One number of one matrix is NaN."""
    path = copy_of(student, folder)
    tensors = load_file(path / "model.safetensors")
    changed = tensors["model.layers.0.mlp.down_proj.weight"].copy()
    changed[0, 0] = np.nan
    tensors["model.layers.0.mlp.down_proj.weight"] = changed
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def with_settings(student, folder, **changes):
    """Other values in tokenizer_config.json."""
    path = copy_of(student, folder)
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def with_other_end(student, folder):
    """All files name another end token."""
    path = with_settings(student, folder, eos_token="<|mask|>")
    for name in ("config.json", "generation_config.json"):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | {"eos_token_id": 2}))
    return path


def with_template(student, folder, template):
    path = with_settings(student, folder, chat_template=template)
    (path / "chat_template.jinja").unlink(missing_ok=True)
    return path


def _with_tokenizer(student, folder, change):
    path = copy_of(student, folder)
    file = path / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return path


def with_other_tokens(student, folder):
    """Two tokens have each other's ids."""

    def swap(content):
        vocab = content["model"]["vocab"]
        vocab["7"], vocab["3"] = vocab["3"], vocab["7"]

    return _with_tokenizer(student, folder, swap)


def with_other_cuts(student, folder):
    """The same tokens; a text is cut into other ones."""

    def drop(content):
        content["model"]["merges"] = []

    return _with_tokenizer(student, folder, drop)
