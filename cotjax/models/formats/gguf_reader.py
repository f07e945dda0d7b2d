"""The `gguf` package's reader and quantised formats, in larger bites.

The package parses the file. It reads a vocabulary letter by letter and expands matrices sixteen
rows at a time, seconds of Python for a small model, so these two are done here; and it does not ask
whether tensors lie where llama.cpp would read them, so that is asked here.
"""

import math
from pathlib import Path

import numpy as np
from gguf import GGUFEndian, GGUFReader, GGUFValueType, ReaderTensor
from gguf.quants import dequantize

from cotjax.errors import InputError

_BITE = 2**17  # bytes that are expanded at once: with their values they fit a core's cache
_ROWS_AT_ONCE = 16  # by the package

# An entry as the package has it: its bytes, its parts, which of them are data, its types.
Entry = tuple[int, list[np.ndarray], list[int], list[GGUFValueType]]


class FastReader(GGUFReader):
    """A parsed file, as the package has it; a list of numbers is one part of its field.

    Raises:
      ValueError: tensors that overlap, leave holes, or have no size.
      Exception: what else the package runs into in a damaged file; see `open_reader`.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        expected = int(self.data_offset)
        for tensor in self.tensors:
            sizes = [int(size) for size in tensor.shape]
            if not sizes or math.prod(sizes) != tensor.n_elements or tensor.n_elements < 1:
                raise ValueError(f"tensor {tensor.name} has the sizes {sizes[:4]}")
            if tensor.data_offset != expected:  # as llama.cpp asks of a file
                raise ValueError(
                    f"tensor {tensor.name} lies at byte {tensor.data_offset}, not at {expected}"
                )
            expected += -(-tensor.n_bytes // int(self.alignment)) * int(self.alignment)

    @property
    def data(self) -> np.ndarray:
        """The file's bytes."""
        return self._data

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        # Every slice of a memory map is one more, which makes 50,000 tokens take seconds.
        self._data = mapped.view(np.ndarray)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Entry:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        head = [self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)]
        kind, count = GGUFValueType(head[0][0]), int(head[1][0])
        types, first = [GGUFValueType.ARRAY, kind], orig_offs + 12
        if kind == GGUFValueType.STRING:
            end, parts = self._strings(first, count)
        elif kind in self.gguf_scalar_to_np:
            parts = [self._get(first, self.gguf_scalar_to_np[kind], count)]
            end = first + parts[0].nbytes
            if len(parts[0]) != count:
                raise ValueError(f"a list of {count} numbers at byte {first} does not end")
        else:
            raise ValueError(f"a list of {kind.name} at byte {first}")
        places = list(range(len(head), len(head) + len(parts)))
        return end - orig_offs, head + parts, places, types

    def _strings(self, first: int, count: int) -> tuple[int, list[np.ndarray]]:
        """Where a list of strings ends, and their letters."""
        order = "little" if self.endianess == GGUFEndian.LITTLE else "big"
        data, size, strings = self.data, len(self.data), []
        raw = data.data
        for _ in range(count):
            start = first + 8
            first = start + int.from_bytes(raw[first:start], order)
            if first > size:
                raise ValueError(f"a string at byte {start} does not end")
            strings.append(data[start:first])
        return first, strings


def open_reader(path: str | Path) -> FastReader:
    """The parsed file.

    Raises:
      InputError: not a complete GGUF file.
    """
    try:
        with np.errstate(over="raise"):  # places beyond 2^64
            return FastReader(path)
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"{path}: not a complete GGUF file ({error}). Download it again."
        ) from error


def expanded(tensor: ReaderTensor, origin: str) -> np.ndarray:
    """A tensor's values in float32.

    Raises:
      InputError: a quantised format that the package does not know.
    """
    packed = tensor.data
    rows = len(packed)
    bites = max(packed.nbytes // _BITE, 1) * _ROWS_AT_ONCE
    together = max((n for n in range(1, rows // bites + 1) if rows % n == 0), default=1)
    try:
        # Formats know blocks, not rows: rows that follow one another expand as one.
        with np.errstate(all="ignore"):  # a scale that is no number makes values that are none
            return dequantize(packed.reshape(rows // together, -1), tensor.tensor_type)
    except NotImplementedError as error:
        raise InputError(
            f"{origin}: tensor {tensor.name} is stored as {tensor.tensor_type.name}, "
            "which the gguf package cannot expand. Use another quantisation of the model."
        ) from error
