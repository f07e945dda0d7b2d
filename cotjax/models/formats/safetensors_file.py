"""A safetensors file: the format's own package reads and checks its header, values are views.

The package refuses whatever is not whole: sizes, overlaps, holes, shapes and formats that do not
agree. Values are read here, since it copies a tensor to read it and keeps every page that it
touched; loading a model larger than half of the memory needs neither
(`benchmarks/load_memory.py` measures that).
Format: https://github.com/huggingface/safetensors#format.
"""

import math
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from cotjax.errors import InputError

_DTYPES: Mapping[str, Any] = MappingProxyType(
    {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
)
# Of a header, in bytes: 100,000 tensors and more. The package parses six times as much, which
# takes it a gigabyte.
_LONGEST_HEADER = 16 * 2**20


class SafetensorsFile:
    """The tensors of one file.

    Attributes:
      path: of the file.
      shapes: of every tensor, in the order of the file.
      notes: the texts that its writer put beside them.

    Raises:
      InputError: not a whole safetensors file; says what is wrong with it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    notes: Mapping[str, str]

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > _LONGEST_HEADER:
                    raise self._damaged(f"a header of {length:,} bytes")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with safe_open(path, "numpy") as header:
                slices = {name: header.get_slice(name) for name in header.offset_keys()}
                self.notes = header.metadata() or {}
                self.shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
                self._dtypes = {name: one.get_dtype() for name, one in slices.items()}
        except (SafetensorError, OSError, ValueError) as error:  # ValueError: an empty file
            raise self._damaged(str(error)) from error
        self._first: dict[str, int] = {}
        at = 8 + length
        for name, shape in self.shapes.items():  # the package has refused holes and overlaps
            if math.prod(max(size, 1) for size in shape) > 2**60:  # beside a size of 0
                raise self._damaged(f"tensor {name} has the shape {shape}")
            self._first[name] = at
            at += math.prod(shape) * _bits(self._dtypes[name]) // 8

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self.path}: not a complete safetensors file ({why}). Download it again."
        )

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor, read-only; what earlier reads left in memory is let go."""
        stored, shape = self._dtypes[name], self.shapes[name]
        if stored not in _DTYPES:
            raise InputError(
                f"{self.path}: tensor {name} is stored as {stored}, which is not "
                f"supported; convert it to one of {', '.join(_DTYPES)}."
            )
        if hasattr(mmap, "MADV_DONTNEED"):  # views stay valid: pages come back from the file
            self._map.madvise(mmap.MADV_DONTNEED)
        dtype = np.dtype(_DTYPES[stored])
        values = np.frombuffer(self._map, dtype, math.prod(shape), self._first[name])
        return values.reshape(shape)


def _bits(dtype: str) -> int:
    """Bits of a number, as the format names its kind: 16 of BF16, 8 of F8_E5M2 and BOOL."""
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8
