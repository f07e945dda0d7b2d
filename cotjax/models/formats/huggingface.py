"""Hugging Face folders: config.json, safetensors and tokenizer files, in and out."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cotjax.errors import InputError, shown
from cotjax.models.formats.config_json import architecture_of, config_of, unread_keys
from cotjax.models.formats.safetensors_file import SafetensorsFile
from cotjax.models.formats.weights import Place, fill, named_tensors
from cotjax.models.transformer import Architecture, Transformer

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LONGEST_JSON = 64 * 2**20  # bytes: an index of 500,000 tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: the file is missing, too large, or not a JSON object.
    """
    try:
        if (size := path.stat().st_size) > _LONGEST_JSON:
            raise ValueError(f"{size:,} bytes; {_LONGEST_JSON:,} is the most that is read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot read this JSON file ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}; a JSON object is needed.")
    return value


def read_architecture(folder: Path) -> Architecture:
    """The decoder that a folder's config.json describes.

    Raises:
      InputError: no readable config.json, or a decoder that is not supported.
    """
    path = folder / "config.json"
    return architecture_of(read_json(path), str(path))


def read_notes(folder: Path) -> tuple[str, ...]:
    """What a reader should know of a folder's config.json beside the decoder.

    Raises:
      InputError: see `read_architecture`.
    """
    path = folder / "config.json"
    return unread_keys(read_json(path), str(path))


def read_ends(folder: Path) -> dict[str, Any]:
    """What a folder's files name as end tokens, by the place: an id or a list of ids.

    Raises:
      InputError: a file that is not a JSON object.
    """
    paths = [folder / name for name in ("generation_config.json", "config.json")]
    return {
        f"{path.name}: eos_token_id": read_json(path).get("eos_token_id")
        for path in paths
        if path.is_file()
    }


class SafetensorsFolder:
    """The tensors of a folder, memory-mapped; see `weights.Tensors`."""

    shapes: Mapping[str, tuple[int, ...]]

    def __init__(self, folder: Path) -> None:
        self.origin = str(folder)
        self._file_of: dict[str, SafetensorsFile] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for path, promised in _weight_files(folder).items():
            file = SafetensorsFile(path)
            if missing := [name for name in promised if name not in file.shapes]:
                raise InputError(
                    f"{folder}: {_INDEX} says that {path.name} holds tensor {missing[0]}, which it "
                    "does not; index and files are not of the same download."
                )
            if twice := shapes.keys() & file.shapes.keys():
                raise InputError(
                    f"{path}: tensor {min(twice)} is in {self._file_of[min(twice)].path.name} too; "
                    "the files are not of the same download."
                )
            shapes |= file.shapes
            self._file_of |= dict.fromkeys(file.shapes, file)
        self.shapes = shapes

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor, a view of its file."""
        return self._file_of[name].read(name)


def _weight_files(folder: Path) -> dict[Path, list[str]]:
    """model.safetensors, or the shards that the index names with the tensors it promises."""
    if (folder / _WEIGHTS).is_file():
        return {folder / _WEIGHTS: []}
    if not (folder / _INDEX).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(
            f"{folder}: no weights: neither {_WEIGHTS} nor {_INDEX} among {found}. "
            'Point model.path to a folder with safetensors, or set model.init = "random".'
        )
    weight_map = read_json(folder / _INDEX).get("weight_map")
    shards: dict[Path, list[str]] = {}
    for tensor, name in (weight_map if isinstance(weight_map, dict) else {}).items():
        if not isinstance(name, str) or Path(name).name != name or name == "..":
            raise InputError(
                f"{folder / _INDEX}: weight_map.{tensor[:80]} = {shown(name)} names no file of its "
                "folder."
            )
        shards.setdefault(folder / name, []).append(tensor)
    if not shards:
        raise InputError(
            f'{folder / _INDEX}: "weight_map" names no files; copy the index from the model\'s '
            "origin."
        )
    if missing := sorted(path.name for path in shards if not os.path.isfile(path)):
        raise InputError(
            f"{folder}: {_INDEX} names {', '.join(missing[:3])[:200]}, which is not there."
        )
    return dict(sorted(shards.items()))


def load(
    folder: str | Path,
    *,
    param_dtype: Any = jnp.float32,
    dtype: Any = jnp.float32,
    place: Place | None = None,
) -> Transformer:
    """A decoder from a local Hugging Face folder.

    Args:
      folder: holds config.json and model.safetensors, or shards with their index.
      param_dtype: number format of the parameters; the weights are rounded to it.
      dtype: number format of the activations.
      place: from the parameters' shapes, as `Policy.split` nests them, to a sharding for each;
        None puts everything on the default device.

    Raises:
      InputError: an unsupported model, no weights, a damaged file, or tensors that do not
        match the config.
    """
    folder = Path(folder)
    shape = read_architecture(folder)
    tensors = SafetensorsFolder(folder)
    return fill(shape, tensors, param_dtype=param_dtype, dtype=dtype, place=place)


def save(
    model: Transformer,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    stop_ids: Sequence[int] = (),
    dtype: str = "",
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a folder that transformers and vLLM load and generate from.

    Args:
      model: the decoder.
      folder: made if missing; files of the same name are replaced.
      tokenizer: a transformers tokenizer; saved beside the weights, and its special tokens
        into generation_config.json. None writes neither.
      stop_ids: tokens beside the tokenizer's own that end a completion.
      dtype: "float32" or "bfloat16"; empty = that of the parameters.
      max_shard_bytes: weights beyond this size are split over several files, with an index.

    Raises:
      InputError: the folder cannot be written.
    """
    folder = Path(folder)
    target = jnp.dtype(dtype) if dtype else model.embed.embedding.dtype
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(model, folder, target, max_shard_bytes)
        special = _write_tokenizer(tokenizer, stop_ids, folder) if tokenizer is not None else {}
        _write_json(folder / "config.json", config_of(model.shape, target.name) | special)
    except (OSError, SafetensorError) as error:  # of a full disk the latter
        raise InputError(f"{folder}: cannot write here ({error}).") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(tokenizer: Any, stop_ids: Sequence[int], folder: Path) -> dict[str, Any]:
    """Saves the tokenizer and generation_config.json; returns the special ids."""
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # of a full disk the library raises no more than that
        raise OSError(str(error)) from error
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    for key in ("is_local", "local_files_only", "name_or_path"):  # of the folder it came from
        config.pop(key, None)
    # transformers 5 writes a class name that transformers 4 and vLLM do not know.
    _write_json(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    special: dict[str, Any] = {key: value for key, value in ids.items() if value is not None}
    if stop_ids:
        special["eos_token_id"] = [tokenizer.eos_token_id, *stop_ids]
    _write_json(folder / "generation_config.json", special)
    return special


def _write_weights(model: Transformer, folder: Path, dtype: Any, max_shard_bytes: int) -> None:
    """One file, or shards no larger than `max_shard_bytes` (a larger tensor has its own)."""
    shards: list[list[str]] = []
    waiting: dict[str, np.ndarray] = {}
    total = size = 0

    def flush() -> None:
        shards.append(list(waiting))
        save_file(waiting, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        waiting.clear()

    for name, tensor in named_tensors(model, dtype):
        if waiting and size + tensor.nbytes > max_shard_bytes:
            flush()
            size = 0
        waiting[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    # The names carry the number of shards, known only now.
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    if len(shards) == 1:
        names = [_WEIGHTS]
    else:
        weight_map = {
            tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / _INDEX, index)
    for i, name in enumerate(names, start=1):
        path = (folder / f"shard-{i}").rename(folder / name)
        # safetensors keeps its files to their owner; these are as open as their folder.
        path.chmod(folder.stat().st_mode & 0o666)
