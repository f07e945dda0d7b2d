"""A safetensors file, memory-mapped: tensors are views of the file, read when they are used.

Format: https://github.com/huggingface/safetensors#format. The format's own package reads a tensor
by copying it and keeps every page that it touched; loading a model larger than half of the memory
needs neither.
"""

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np

from cotjax.errors import InputError

_DTYPES: Mapping[str, Any] = MappingProxyType(
    {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
)


class SafetensorsFile:
    """The tensors of one file.

    Attributes:
      shapes: of every tensor, in the order of the file.

    Raises:
      InputError: not a whole safetensors file; says what is wrong with it.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise self._damaged(str(error)) from error
        header, self._data = self._header()
        self._entries = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
        self.shapes = {name: tuple(entry["shape"]) for name, entry in self._entries.items()}

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self._path}: not a complete safetensors file ({why}). Download it again."
        )

    def _header(self) -> tuple[dict[str, Any], int]:
        """The header's tensors, and where their values begin."""
        size = len(self._map)
        start = 8 + int.from_bytes(self._map[:8], "little")
        if size < 8 or start > size:
            raise self._damaged(f"its header should end at byte {start:,}, it has {size:,} bytes")
        try:
            header = json.loads(self._map[8:start])
            header.pop("__metadata__", None)
            end = start + max(entry["data_offsets"][1] for entry in header.values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        if end != size:
            raise self._damaged(f"its header names {end:,} bytes, it has {size:,}")
        return header, start

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor, read-only; what earlier reads left in memory is let go."""
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise InputError(
                f"{self._path}: tensor {name} is stored as {entry['dtype']}, which is not "
                f"supported; convert it to one of {', '.join(_DTYPES)}."
            )
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), self.shapes[name]
        first, last = entry["data_offsets"]
        if last - first != math.prod(shape) * dtype.itemsize:
            raise self._damaged(f"tensor {name} {shape} has {last - first:,} bytes")
        if hasattr(mmap, "MADV_DONTNEED"):  # views stay valid: pages come back from the file
            self._map.madvise(mmap.MADV_DONTNEED)
        values = np.frombuffer(self._map, dtype, math.prod(shape), self._data + first)
        return values.reshape(shape)
