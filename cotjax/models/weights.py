"""Between named tensors on disk and the decoder's stacked parameters.

Formats differ in how they hold tensors; all of them show the same names here, so a decoder is
filled, checked and written in one place.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cotjax.errors import InputError
from cotjax.models.families import TENSOR_NAMES, tensor_names
from cotjax.models.transformer import Architecture, Transformer

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
        """The values of one tensor; float32, float16 or bfloat16."""
        ...


def _parts(path: tuple[Any, ...], shape: Architecture) -> list[tuple[str, tuple[int, ...]]]:
    """The tensors of a parameter and where each goes: the whole of it, or one layer."""
    name = tensor_names(shape)[".".join(str(part) for part in path)]
    if "{}" in name:
        return [(name.format(i), (i,)) for i in range(shape.num_layers)]
    return [(name, ())]


def _turned(path: tuple[Any, ...], array: np.ndarray) -> np.ndarray:
    """A projection maps [in] -> [out]: its kernel is [in, out] here and [out, in] on disk."""
    return array.T if path[-1] == "kernel" else array


def abstract_model(shape: Architecture, *, param_dtype: Any, dtype: Any) -> Transformer:
    """The decoder with shapes in place of values: nothing is allocated or drawn."""
    return nnx.eval_shape(
        lambda: Transformer(shape, rngs=nnx.Rngs(0), param_dtype=param_dtype, dtype=dtype)
    )


def _check(wanted: Mapping[str, tuple[int, ...]], tensors: Tensors, tied: bool) -> None:
    """Every tensor is there with its shape, and none is left over."""
    for name, shape in wanted.items():
        if name not in tensors.shapes:
            raise InputError(
                f"{tensors.origin}: tensor {name} {shape} is missing. The weights are not of "
                "the model in the config, or a file was not downloaded."
            )
        if tensors.shapes[name] != shape:
            raise InputError(
                f"{tensors.origin}: tensor {name} has shape {tensors.shapes[name]}, but "
                f"its config needs {shape}; config and weights are not of the same model."
            )
    for name in tensors.shapes.keys() - wanted.keys():
        if _RECOMPUTED.search(name):
            continue
        if tied and name == TENSOR_NAMES["unembed_weight"]:
            embedding = tensors.read(TENSOR_NAMES["embed.embedding"])
            if np.array_equal(tensors.read(name), embedding):
                continue
            raise InputError(
                f"{tensors.origin}: tensor {name} differs from the embedding, but the config "
                "has tie_word_embeddings = true. Set it to false, or remove the tensor."
            )
        raise InputError(
            f"{tensors.origin}: tensor {name} {tensors.shapes[name]} has no place in a "
            "decoder of its config; the architecture or an option is another one."
        )


def fill(shape: Architecture, tensors: Tensors, *, param_dtype: Any, dtype: Any) -> Transformer:
    """The decoder with these weights; one parameter at a time passes through the host.

    Args:
      shape: the decoder.
      tensors: its weights.
      param_dtype: number format of the parameters; weights are rounded to it.
      dtype: number format of the activations.

    Raises:
      InputError: a tensor is missing, left over or of the wrong shape.
    """
    model = abstract_model(shape, param_dtype=param_dtype, dtype=dtype)
    definition, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    wanted: dict[str, tuple[int, ...]] = {}
    for path, param in flat.items():
        for name, index in _parts(path, shape):
            one = param.shape[len(index) :]
            wanted[name] = one[::-1] if path[-1] == "kernel" else one
    _check(wanted, tensors, shape.tie_embeddings)
    for path, param in flat.items():
        values = np.empty(param.shape, param.dtype)
        for name, index in _parts(path, shape):
            values[index] = _turned(path, tensors.read(name))
        flat[path] = param.replace(jnp.asarray(values))
    return nnx.merge(definition, nnx.from_flat_state(flat))


def named_tensors(model: Transformer, dtype: Any) -> Iterator[tuple[str, np.ndarray]]:
    """What `fill` reads, from a decoder: its tensors under their Hugging Face names, cast."""
    flat = nnx.to_flat_state(nnx.state(model))
    for path, param in flat:
        values = np.asarray(param.get_value())
        for name, index in _parts(path, model.shape):
            yield name, np.ascontiguousarray(_turned(path, values[index]), dtype)
