"""Between named tensors on disk and the decoder's stacked parameters.

Formats differ in how they hold tensors; all of them show the same names here, so a decoder is
filled, checked and written in one place.
"""

import functools
import math
import operator
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cotjax.errors import InputError
from cotjax.models.block import INITIAL_SPREAD
from cotjax.models.formats.families import TENSOR_NAMES, tensor_names
from cotjax.models.formats.shard_writer import Growing
from cotjax.models.transformer import Architecture, Transformer
from cotjax.progress import Progress

# Rotary frequencies that old checkpoints carry; they follow from the config.
_RECOMPUTED = re.compile(r"rotary_emb\.inv_freq$")


class Tensors(Protocol):
    """Tensors under their Hugging Face names, read one at a time.

    Attributes:
      origin: the file or folder, for error messages.
      shapes: of every tensor, known without reading its values.
    """

    origin: str
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor; float32, float16 or bfloat16. Read before the next is."""
        ...


# From the parameters' shapes, as `Policy.split` nests them, to a sharding for each.
Place = Callable[[Any], Any]


def _parts(path: tuple[Any, ...], shape: Architecture) -> list[tuple[str, int | None]]:
    """The tensors of a parameter: one for each layer, or (None) one for the whole of it."""
    name = tensor_names(shape)[".".join(str(part) for part in path)]
    if "{}" in name:
        return [(name.format(i), i) for i in range(shape.num_layers)]
    return [(name, None)]


def _is_turned(path: tuple[Any, ...]) -> bool:
    """A projection maps [in] -> [out]: its kernel is [in, out] here and [out, in] on disk."""
    return path[-1] == "kernel"


@functools.lru_cache(maxsize=4)
def _abstract(shape: Architecture, param_dtype: Any, dtype: Any) -> tuple[Any, Any]:
    """The decoder's definition, and shapes in place of its parameters."""
    formats = {"param_dtype": param_dtype, "dtype": dtype}
    return nnx.split(nnx.eval_shape(lambda: Transformer(shape, rngs=nnx.Rngs(0), **formats)))


def tensor_shapes(shape: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of this decoder has."""
    shapes = {}
    _, state = _abstract(shape, jnp.dtype(jnp.float32), jnp.dtype(jnp.float32))
    for path, param in nnx.to_flat_state(state):
        for name, layer in _parts(path, shape):
            one = param.shape if layer is None else param.shape[1:]
            shapes[name] = one[::-1] if _is_turned(path) else one
    return shapes


def check_names(shape: Architecture, tensors: Tensors) -> None:
    """Refuses tensors that are not those of a decoder; none is read.

    Raises:
      InputError: a tensor is missing, left over or of the wrong shape.
    """
    wanted = tensor_shapes(shape)
    for name, size in wanted.items():
        if name not in tensors.shapes:
            raise InputError(
                f"{tensors.origin}: tensor {name} {size} is missing. The weights are not of "
                "the model in the config, or a file was not downloaded."
            )
        if tensors.shapes[name] != size:
            raise InputError(
                f"{tensors.origin}: tensor {name} has shape {tensors.shapes[name]}, but "
                f"its config needs {size}; config and weights are not of the same model."
            )
    for name in tensors.shapes.keys() - wanted.keys():
        if not (_RECOMPUTED.search(name) or _is_second_embedding(name, shape)):
            raise InputError(
                f"{tensors.origin}: tensor {name} {tensors.shapes[name]} has no place in a "
                "decoder of its config; the architecture or an option is another one."
            )


def _is_second_embedding(name: str, shape: Architecture) -> bool:
    return shape.tie_embeddings and name == TENSOR_NAMES["unembed_weight"]


def _check_tied(shape: Architecture, tensors: Tensors) -> None:
    """A checkpoint may hold its embedding a second time, if it is the same."""
    for name in tensors.shapes:
        if _is_second_embedding(name, shape) and not np.array_equal(
            tensors.read(name), tensors.read(TENSOR_NAMES["embed.embedding"])
        ):
            raise InputError(
                f"{tensors.origin}: tensor {name} differs from the embedding, but the config "
                "has tie_word_embeddings = true. Set it to false, or remove the tensor."
            )


def fill(
    shape: Architecture,
    tensors: Tensors,
    *,
    param_dtype: Any,
    dtype: Any,
    place: Place | None = None,
) -> Transformer:
    """The decoder with these weights; each tensor is read once, in the order of `tensors`.

    A tensor goes to its devices in small pieces, each device getting its own part. Beside the
    parameters that its devices hold, the host has the tensor that is being read and one piece.
    Says how far it is.

    Args:
      shape: the decoder.
      tensors: its weights.
      param_dtype: number format of the parameters; weights are rounded to it.
      dtype: number format of the activations.
      place: shapes to shardings; None puts everything on the default device.

    Raises:
      InputError: a tensor is missing, left over or of the wrong shape.
    """
    definition, flat, shardings = _blueprint(shape, param_dtype, dtype, place)
    check_names(shape, tensors)
    _check_tied(shape, tensors)
    goals = {name: (path, layer) for path in flat for name, layer in _parts(path, shape)}
    growing = {
        path: Growing(param.shape, param.dtype, shardings[path]) for path, param in flat.items()
    }
    what, quiet = f"loading {Path(tensors.origin).name}", jax.process_index() > 0
    sizes = {name: math.prod(size) for name, size in tensors.shapes.items()}
    with Progress(what, sum(sizes.values()), "parameters", quiet=quiet) as progress:
        for name, size in sizes.items():
            if name in goals:
                path, layer = goals[name]
                growing[path].write(tensors.read(name), layer, turned=_is_turned(path))
            progress.advance(size)
    # What waited on the host is let go, parameter by parameter.
    filled = {path: param.replace(growing.pop(path).done()) for path, param in flat.items()}
    return nnx.merge(definition, nnx.from_flat_state(filled))


class Drawn:
    """Random `Tensors`: matrices from a normal distribution, the rest as a new decoder has it.

    A tensor's values depend on seed and name alone; drawn on the host, where nothing is compiled.
    """

    def __init__(self, shape: Architecture, seed: int) -> None:
        self.origin = "random weights"
        self.shapes: Mapping[str, tuple[int, ...]] = tensor_shapes(shape)
        self._seed, self._offset = seed, shape.offset_norms

    def read(self, name: str) -> np.ndarray:
        """See `Tensors`."""
        size = self.shapes[name]
        if len(size) > 1:
            rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
            return rng.standard_normal(size, np.float32) * np.float32(INITIAL_SPREAD)
        is_scale = name.endswith("norm.weight") and not self._offset
        return np.full(size, float(is_scale), np.float32)


def _blueprint(
    shape: Architecture, param_dtype: Any, dtype: Any, place: Place | None
) -> tuple[Any, dict[tuple[Any, ...], Any], dict[tuple[Any, ...], Any]]:
    """The decoder's definition, and by path its parameters' shapes and shardings."""
    definition, state = _abstract(shape, jnp.dtype(param_dtype), jnp.dtype(dtype))
    flat = dict(nnx.to_flat_state(state))
    placed = place(nnx.to_pure_dict(state)) if place else None
    shardings = {
        path: None if placed is None else functools.reduce(operator.getitem, path, placed)
        for path in flat
    }
    return definition, flat, shardings


@jax.jit
def _layer(stack: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False)


def named_tensors(model: Transformer, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """What `fill` reads, from a decoder: its tensors under their Hugging Face names, cast."""
    for path, param in nnx.to_flat_state(nnx.state(model)):
        values = param.get_value()
        for name, layer in _parts(path, model.shape):
            one = np.asarray(values if layer is None else _layer(values, layer))
            yield name, np.ascontiguousarray(one.T if _is_turned(path) else one, dtype)
