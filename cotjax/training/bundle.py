"""A bundle: what is needed to look at a step whose numbers were NaN or infinite.

It is a folder `bad_step-N` in the run folder. A run writes one for the first of several bad steps
in a row, and keeps its newest `KEPT`:

    bundle.json   format       1
                  step         N; the first step of a run is 1
                  checkpoint   the newest checkpoint before the step, `checkpoints/<it>` in the run
                               folder as long as that is kept; 0 = none, the run's beginning
                  causes       sentences: what was not finite
                  metrics      of the step by name, as in metrics.jsonl; what is no number is "nan",
                               "inf" or "-inf"
                  completions  the step's rows of completions.jsonl
                  arrays       name -> {"shape", "dtype", "not_finite", "file"}
    batch.npz     the arrays whose "file" is true, by name
    config.toml   the run's settings

A name is where an array stands in `Step.batch`, the micro-batches that the update was given, with
points between the parts: "0.completion" of the first micro-batch. bfloat16 is written as float32,
which holds it exactly, and a random key as its numbers. Arrays above `LARGEST` bytes, such as the
unembedding of a teacher, are listed and not written.

The update was skipped, so parameters and optimizer state are those of before the step, and every
checkpoint between it and the next step that trained has them.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cotjax.errors import InputError
from cotjax.storage import AGAIN, read_json, unwritten
from cotjax.training.finite import named_leaves

FORMAT = 1
KEPT = 3  # bundles of a run
LARGEST = 2**28  # bytes of an array that is written


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle as it was read; the module says what is in it.

    Attributes:
      folder: of the bundle, inside the run's.
      step: that was bad, from 1.
      checkpoint: step of the newest checkpoint before it; 0 if there was none.
      causes: what was not finite, a sentence each.
      metrics: of the step.
      completions: some of the step's, as in completions.jsonl.
      arrays: of the batch by name, in the formats that they had; but for those not written.
      about: shape, dtype and count of what is not finite of every array, written or not.
    """

    folder: pathlib.Path
    step: int
    checkpoint: int
    causes: tuple[str, ...]
    metrics: Mapping[str, float]
    completions: Sequence[Mapping[str, Any]]
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Mapping[str, Any]]

    def fill(self, batch: Any) -> Any:
        """A batch of the same form with the bundle's numbers, on the devices where it lies.

        Args:
          batch: the step's, made again; arrays that were not written are taken from it.

        Raises:
          InputError: it has other arrays, or of another shape.
        """
        own = {name: [*np.shape(_numbers(leaf))] for name, leaf in named_leaves(batch).items()}
        there = {name: list(entry["shape"]) for name, entry in self.about.items()}
        for name in sorted(own.keys() | there.keys()):
            if own.get(name) != there.get(name):
                raise InputError(
                    f"{self.folder}: {name} is {there.get(name)} there and {own.get(name)} in the "
                    "batch of this run. Take the bundle of the same run and its settings."
                )
        leaves, form = jax.tree.flatten(batch)
        filled = [
            _placed(self.arrays[name], leaf) if name in self.arrays else leaf
            for name, leaf in zip(own, leaves, strict=True)
        ]
        return jax.tree.unflatten(form, filled)


def write_bundle(
    run: pathlib.Path,
    *,
    step: int,
    checkpoint: int,
    causes: Sequence[str],
    metrics: Mapping[str, float],
    batch: Any,
    completions: Sequence[Mapping[str, Any]] = (),
    not_finite: Mapping[str, int] | None = None,
) -> pathlib.Path:
    """Writes a bundle, whole or not at all; one of the same step is replaced.

    Every process of a run calls it, and the first one writes.

    Args:
      run: the run folder.
      step: that was bad, from 1.
      checkpoint: step of the newest checkpoint before it; 0 if there is none.
      causes: what was not finite, a sentence each.
      metrics: of the step.
      batch: tree of arrays, which may lie on devices.
      completions: rows of completions.jsonl.
      not_finite: how many numbers of an array are NaN or infinite, by name; None is none.

    Returns:
      its folder.

    Raises:
      InputError: the disk is full.
    """
    folder = bundle_folder(run, step)
    leaves = {name: _numbers(leaf) for name, leaf in named_leaves(batch).items()}
    about = {
        name: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "not_finite": (not_finite or {}).get(name, 0),
            "file": leaf.size * leaf.dtype.itemsize <= LARGEST,
        }
        for name, leaf in leaves.items()
    }
    arrays = {name: _fetched(leaf) for name, leaf in leaves.items() if about[name]["file"]}
    if jax.process_index() > 0:
        return folder
    told = {
        "format": FORMAT,
        "step": step,
        "checkpoint": checkpoint,
        "causes": list(causes),
        "metrics": {name: _as_json(value) for name, value in metrics.items()},
        "completions": list(completions),
        "arrays": about,
    }
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        _write(temporary, run, told, arrays)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise unwritten(folder, error, AGAIN) from error
    for old in bundles_of(run)[:-KEPT]:
        shutil.rmtree(bundle_folder(run, old), ignore_errors=True)
    return folder


def read_bundle(folder: pathlib.Path) -> Bundle:
    """A bundle from its folder.

    Raises:
      InputError: there is none, or it is damaged.
    """
    if not (folder / "bundle.json").is_file():
        raise InputError(
            f"{folder}: holds no bundle.json. Name the folder of a bundle, runs/NAME/bad_step-N."
        )
    fix = "Take another bundle of the run."
    told = read_json(folder / "bundle.json", fix=fix)
    try:
        if told["format"] != FORMAT:
            raise InputError(
                f"{folder}: is of format {told['format']}, this version reads {FORMAT}. Read it "
                "with the version that wrote it."
            )
        with (folder / "batch.npz").open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {
                name: file[name].astype(jnp.dtype(entry["dtype"]))
                for name, entry in told["arrays"].items()
                if entry["file"]
            }
        return Bundle(
            folder=folder,
            step=int(told["step"]),
            checkpoint=int(told["checkpoint"]),
            causes=tuple(told["causes"]),
            metrics={name: float(value) for name, value in told["metrics"].items()},
            completions=told["completions"],
            arrays=arrays,
            about=told["arrays"],
        )
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{folder}: is damaged ({error}). {fix}") from error


def bundle_folder(run: pathlib.Path, step: int) -> pathlib.Path:
    """Where the bundle of a step lies."""
    return run / f"bad_step-{step}"


def bundles_of(run: pathlib.Path) -> list[int]:
    """The steps of which a run folder holds a bundle, in order of their numbers."""
    numbers = (path.name.removeprefix("bad_step-") for path in run.glob("bad_step-*"))
    return sorted(int(number) for number in numbers if number.isdigit())


def _write(
    folder: pathlib.Path, run: pathlib.Path, told: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    exact = {
        name: leaf.astype(np.float32) if leaf.dtype == jnp.bfloat16 else leaf
        for name, leaf in arrays.items()
    }
    np.savez_compressed(folder / "batch.npz", **exact)
    with contextlib.suppress(FileNotFoundError):  # of a stage that is trained without a config
        shutil.copyfile(run / "config.toml", folder / "config.toml")
    text = json.dumps(told, indent=2, ensure_ascii=False)
    (folder / "bundle.json").write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))


def _numbers(leaf: Any) -> Any:
    """An array, or the numbers of a random key."""
    if not hasattr(leaf, "dtype"):
        return np.asarray(leaf)
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _fetched(leaf: Any) -> np.ndarray:
    """An array on the host, whatever processes hold it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _placed(numbers: np.ndarray, like: Any) -> Any:
    """Numbers as the array in whose place they come, on the same devices."""
    if not isinstance(like, jax.Array):
        return numbers
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(numbers), impl=jax.random.key_impl(like))
        return jax.device_put(key, like.sharding)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda place: numbers[place])


def _as_json(value: Any) -> float | int | str:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
