"""Parameters that grow on their devices, piece by piece, so that the host never holds one whole."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

PIECE_BYTES = 64 * 2**20  # of a tensor on its way to a device
SMALL_BYTES = 4 * 2**20  # of a part that is put together on the host

Bounds = tuple[tuple[int, int], ...]  # first and last + 1 along each axis


@functools.partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, piece: jax.Array, start: tuple[int, ...]) -> jax.Array:
    """Puts a piece, rounded to the array's format, where it belongs."""
    piece = piece.reshape((1,) * (array.ndim - piece.ndim) + piece.shape)
    return jax.lax.dynamic_update_slice(array, piece.astype(array.dtype), start)


_turn = jax.jit(jnp.transpose)  # apart from `_write`: fused into it, it takes twice as long


class Growing:
    """A parameter that is written tensor by tensor.

    Every device's part is an array of its own until all is there; devices that hold the same part
    get it from one another. Small parts wait on the host, where nothing has to be compiled.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, sharding: Sharding | None) -> None:
        """Allocates.

        Args:
          shape: of the whole.
          dtype: number format; what is written is rounded to it.
          sharding: which device holds what; None: the default device holds everything.
        """
        self._shape, self._sharding = shape, sharding
        self._devices: dict[Bounds, list[Any]] = {}
        if sharding is None:
            self._devices[tuple((0, size) for size in shape)] = [None]
        else:
            for device, index in sharding.addressable_devices_indices_map(shape).items():
                sides = zip(index or (), shape, strict=True)
                bounds = tuple(side.indices(size)[:2] for side, size in sides)
                self._devices.setdefault(bounds, []).append(device)
        self._parts: dict[Bounds, Any] = {}
        for bounds, devices in self._devices.items():
            size = [last - first for first, last in bounds]
            small = math.prod(size) * jnp.dtype(dtype).itemsize <= SMALL_BYTES
            self._parts[bounds] = (
                np.zeros(size, dtype) if small else jnp.zeros(size, dtype, device=devices[0])
            )

    def write(self, values: np.ndarray, layer: int | None, *, turned: bool) -> None:
        """Fills the parameter, or one of its layers.

        Args:
          values: of the tensor; may be a view of a file.
          layer: index along the leading axis; None: `values` are the whole parameter.
          turned: the tensor has its two axes the other way round.
        """
        for bounds, part in self._parts.items():
            own, lead = bounds, ()
            if layer is not None:
                (first, last), *own = bounds
                if not first <= layer < last:
                    continue
                lead = (layer - first,)
            sides = tuple(slice(*side) for side in (reversed(own) if turned else own))
            piece = values[sides]
            if isinstance(part, np.ndarray):
                part[lead] = piece.T if turned else piece
            else:
                device = self._devices[bounds][0]
                self._parts[bounds] = _write_in_pieces(part, piece, lead, device, turned=turned)

    def done(self) -> jax.Array:
        """The parameter."""
        firsts = {
            bounds: jax.device_put(self._parts[bounds], devices[0])
            for bounds, devices in self._devices.items()
        }
        if self._sharding is None:
            return next(iter(firsts.values()))
        copies = [
            firsts[bounds] if device == devices[0] else jax.device_put(firsts[bounds], device)
            for bounds, devices in self._devices.items()
            for device in devices
        ]
        return jax.make_array_from_single_device_arrays(self._shape, self._sharding, copies)


def _write_in_pieces(
    part: jax.Array, values: np.ndarray, lead: tuple[int, ...], device: Any, *, turned: bool
) -> jax.Array:
    """`part` with the values written behind its leading indices, a few rows at a time."""
    rows = max(PIECE_BYTES * len(values) // values.nbytes, 1)
    for first in range(0, len(values), rows):
        start = [0] * values.ndim
        start[-1 if turned else 0] = first
        piece = jax.device_put(values[first : first + rows], device)
        piece = _turn(piece) if turned else piece
        part = _write(part, piece, tuple(np.int32(i) for i in (*lead, *start)))
        part.block_until_ready()  # so that one piece at a time is in memory
    return part
