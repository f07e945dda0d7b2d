"""Adapters as PEFT folders, in and out: adapter_config.json and adapter_model.safetensors.

PEFT, transformers and vLLM read what is written here, and the same bits come back. On disk a
matrix maps as in torch, [out, in]: lora_A is [r, in] and lora_B [out, r].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cotjax.errors import InputError
from cotjax.models.formats.families import tensor_names
from cotjax.models.formats.huggingface import read_json
from cotjax.models.formats.kinds import (
    MOST_WIDTH,
    NUMBER,
    Kind,
    check_kind,
    is_number,
    whole,
)
from cotjax.models.formats.safetensors_file import SafetensorsFile
from cotjax.models.lora import PROJECTIONS, Lora, check_rank
from cotjax.models.transformer import Architecture, Transformer

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_FINGERPRINT = "base_fingerprint"
_LEAVES = {"lora_a": "lora_A", "lora_b": "lora_B"}
# What an adapter computes where PEFT's settings hold more than these is not this LoRA.
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "layer_replication": None,
    "modules_to_save": None,
    "alora_invocation_tokens": None,
}

_NUMBERS: Mapping[str, Kind] = {
    "r": whole(MOST_WIDTH),
    "lora_alpha": NUMBER,
    "lora_dropout": Kind(lambda value: value == 0 or is_number(value), "a number from 0 on"),
}


def _tensor_name(shape: Architecture, projection: str, leaf: str) -> str:
    """PEFT's name of a matrix; {} is the layer."""
    module = tensor_names(shape)[f"layers.{projection}.kernel"].removesuffix(".weight")
    return f"base_model.model.{module}.{_LEAVES[leaf]}.weight"


def save_peft(
    adapter: Any,
    lora: Lora,
    folder: str | Path,
    shape: Architecture,
    base_model: str,
    fingerprint: str = "",
) -> None:
    """Writes an adapter; its number format is kept.

    Args:
      adapter: as `lora.attach` gives it.
      lora: its settings.
      folder: made if missing; files of the same name are replaced.
      shape: of the base.
      base_model: where a reader finds the base: a folder or a name on the hub.
      fingerprint: of the base's weights; it stands in the header of the weights' file, which other
        readers pass over.

    Raises:
      InputError: the folder cannot be written.
    """
    folder = Path(folder)
    tensors = {
        _tensor_name(shape, projection, leaf).format(i): np.ascontiguousarray(layer.T)
        for projection in lora.projections
        for leaf in _LEAVES
        for i, layer in enumerate(np.asarray(adapter["layers"][projection][leaf]))
    }
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        # PEFT's is an integer wherever it can be.
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [PROJECTIONS[projection] for projection in lora.projections],
        "bias": "none",
        "inference_mode": True,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        noted = {_FINGERPRINT: fingerprint} if fingerprint else {}
        save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt", **noted})
        # safetensors keeps its files to their owner; these are as open as their folder.
        (folder / _WEIGHTS).chmod(folder.stat().st_mode & 0o666)
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:  # of a full disk the latter
        raise InputError(f"{folder}: cannot write here ({error}).") from error


def load_peft(
    folder: str | Path, shape: Architecture, *, param_dtype: Any = jnp.float32
) -> tuple[Lora, dict[str, Any]]:
    """An adapter from a PEFT folder.

    Args:
      folder: holds adapter_config.json and adapter_model.safetensors.
      shape: of the base that it will be joined with.
      param_dtype: number format of the adapter; its numbers are rounded to it.

    Returns:
      (settings, adapter). The targets are the projections that have tensors, by their Hugging
      Face names; whatever pattern chose them is not needed again.

    Raises:
      InputError: a file that is missing or damaged, a kind of adapter that is not this LoRA, or
        tensors that do not fit the base.
    """
    folder = Path(folder)
    config = read_json(folder / _CONFIG)
    for key, plain in _PLAIN.items():
        value = config.get(key, plain)
        if value != plain and value:
            raise InputError(
                f"{folder / _CONFIG}: {key} = {json.dumps(value)[:80]} is not supported, only "
                f"{json.dumps(plain)}. Merge this adapter into its base with PEFT instead."
            )
    tensors = _read_tensors(folder)
    present = [
        projection
        for projection in PROJECTIONS
        if any(f".{PROJECTIONS[projection]}.lora_" in name for name in tensors)
    ]
    if not present:
        raise InputError(
            f"{folder / _WEIGHTS}: no LoRA on any of {', '.join(PROJECTIONS.values())} among its "
            f"{len(tensors)} tensors."
        )
    for key, kind in _NUMBERS.items():
        check_kind(config.get(key), kind, key, str(folder / _CONFIG))
    numbers = config["r"], float(config["lora_alpha"]), float(config["lora_dropout"])
    lora = Lora(*numbers, tuple(PROJECTIONS[projection] for projection in present))
    wanted = _wanted(shape, lora)
    _check(folder, {name: one for names in wanted.values() for name, one in names}, tensors)
    layers: dict[str, Any] = {projection: {} for projection in lora.projections}
    for (projection, leaf), names in wanted.items():
        stacked = np.stack([tensors[name].T for name, _ in names])
        layers[projection][leaf] = jnp.asarray(stacked, param_dtype)
    return lora, {"layers": layers}


def is_peft(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    return (folder / _CONFIG).is_file() and not (folder / "config.json").is_file()


def base_of(folder: str | Path) -> tuple[str, str]:
    """(name, fingerprint) of the base that an adapter belongs to; empty where it names none.

    Raises:
      InputError: a file that is missing or damaged.
    """
    folder = Path(folder)
    name = read_json(folder / _CONFIG).get("base_model_name_or_path")
    path = folder / _WEIGHTS
    if not path.is_file():
        return str(name or ""), ""
    return str(name or ""), SafetensorsFile(path).notes.get(_FINGERPRINT, "")


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    path = folder / _WEIGHTS
    if not path.is_file():
        found = ", ".join(sorted(one.name for one in folder.iterdir())) or "nothing"
        raise InputError(f"{folder}: {_WEIGHTS} is not among {found}.")
    file = SafetensorsFile(path)
    return {name: file.read(name) for name in file.shapes}


def _wanted(
    shape: Architecture, lora: Lora
) -> dict[tuple[str, str], list[tuple[str, tuple[int, ...]]]]:
    """By projection and leaf: each layer's tensor name and shape on disk."""
    model = nnx.eval_shape(lambda: Transformer(shape, rngs=nnx.Rngs(0)))
    layers = nnx.to_pure_dict(nnx.state(model.layers))
    wanted = {}
    for projection in lora.projections:
        _, size_in, size_out = layers[projection]["kernel"].shape
        check_rank(lora, projection, size_in, size_out)
        sizes = {"lora_a": (lora.rank, size_in), "lora_b": (size_out, lora.rank)}
        for leaf, size in sizes.items():
            name = _tensor_name(shape, projection, leaf)
            wanted[projection, leaf] = [(name.format(i), size) for i in range(shape.num_layers)]
    return wanted


def _check(
    folder: Path, wanted: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]
) -> None:
    """Every tensor is there with its shape, and none is left over."""
    for name, size in wanted.items():
        if name not in tensors:
            raise InputError(
                f"{folder}: tensor {name} {size} is missing; an adapter must be on every layer."
            )
        if tensors[name].shape != size:
            raise InputError(
                f"{folder}: tensor {name} has shape {tensors[name].shape}, but its config and "
                f"the base need {size}; the adapter is of another base."
            )
    for name in tensors.keys() - wanted.keys():
        raise InputError(
            f"{folder}: tensor {name} {tensors[name].shape} has no place in this base; the "
            "adapter is of another base, or not only LoRA on projections."
        )
