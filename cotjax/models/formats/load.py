"""A student by one name: the built-in one, SmolLM2, a Hugging Face folder or a GGUF file."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from cotjax.errors import InputError
from cotjax.models.formats import huggingface, peft
from cotjax.models.formats.built_in_tokenizer import BuiltInTokenizer
from cotjax.models.formats.gguf_gemma import open_gguf
from cotjax.models.formats.locate import layers_left, without_weights
from cotjax.models.formats.locate import resolve as resolve
from cotjax.models.formats.locate import weight_bytes as weight_bytes
from cotjax.models.formats.special_tokens import check_known, special_tokens
from cotjax.models.formats.weights import Drawn, Place, Tensors, check_names, fill
from cotjax.models.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A decoder with its tokenizer, checked against each other; its weights are read on first use.

    Attributes:
      shell: the decoder with shapes in place of its weights.
      tokenizer: a transformers `PreTrainedTokenizerFast`, or what answers like one.
      eos_id: the token that ends a completion.
      stop_ids: further tokens that end a completion.
      pad_id: the token that fills rows; may equal `eos_id`.
      source: the folder or file that it came from.
      notes: what a reader of the run should know, one sentence each.
      read: reads or draws the weights: the decoder with them, anew with each call.
    """

    shell: Transformer
    tokenizer: Any
    eos_id: int
    stop_ids: tuple[int, ...]
    pad_id: int
    source: str
    notes: tuple[str, ...]
    read: Callable[[], Transformer]

    @functools.cached_property
    def model(self) -> Transformer:
        """The decoder."""
        return self.read()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder, exactly as its tokenizer.json has it.

    Raises:
      InputError: no tokenizer.json, one that cannot be read, or an end token that it lacks.
    """
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder}: no tokenizer.json; copy it from the model's origin.")
    # transformers warns that models need PyTorch; only its tokenizer is used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        tokenizer = _opened(folder)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InputError(f"{folder}: cannot read its tokenizer.json ({error}).") from error
    check_known(tokenizer, folder)
    # A file may carry the lengths of the batches that its authors trained with.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def _opened(folder: Path) -> Any:
    if folder == resolve("tiny"):
        return BuiltInTokenizer(folder)
    from transformers import PreTrainedTokenizerFast  # here: it takes seconds to import

    return PreTrainedTokenizerFast.from_pretrained(folder)


def load_model(
    path: str,
    *,
    init: Literal["pretrained", "random"],
    param_dtype: Any,
    compute_dtype: Any,
    seed: int,
    place: Place | None = None,
    **more: Any,
) -> LoadedModel:
    """A student; its files are opened and compared, and none of its weights is read yet.

    Args:
      path: see `resolve`.
      init: "pretrained" reads the weights; "random" draws them and asks the path for shape and
        tokenizer alone.
      param_dtype: number format of the parameters.
      compute_dtype: number format of the activations.
      seed: of random weights.
      place: from the parameters' shapes, as `Policy.split` nests them, to a sharding for each;
        None puts everything on the default device.
      **more: further settings of `Transformer`, such as `remat`.

    Raises:
      InputError: see `resolve`, `huggingface.load`, `gguf.load` and `special_tokens`.
    """
    source = resolve(path)
    init = "random" if without_weights() else init
    if peft.is_peft(source):
        base, _ = peft.base_of(source)
        raise InputError(
            f'model.path = "{path}": holds an adapter and no model. Set model.path to its base '
            f'("{base}") and model.adapter to this folder.'
        )
    is_gguf = source.suffix == ".gguf" and source.is_file()
    file = open_gguf(source) if is_gguf else None
    shape = file.architecture() if file else huggingface.read_architecture(source)
    shape = shape.first_layers(layers_left(shape.num_layers))
    stands_in = without_weights() and not (file or (source / "tokenizer.json").is_file())
    if stands_in:  # for shapes, whose texts no one reads
        tokenizer, ends = load_tokenizer(resolve("tiny")), {}
        tokenizer.stands_in = True
    else:
        tokenizer = file.tokenizer() if file else load_tokenizer(source)
        ends = file.ends() if file else huggingface.read_ends(source)
    special = special_tokens(tokenizer, shape.vocab_size, ends, str(source))
    notes = [*special.notes, *(() if file else huggingface.read_notes(source))]
    if stands_in:
        notes = [
            f"{path} has no tokenizer.json; the built-in student's counts the tokens of texts."
        ]
    formats = {"param_dtype": param_dtype, "dtype": compute_dtype}
    if init == "random":
        tensors: Tensors = Drawn(shape, seed)
        if not without_weights():
            notes.append(
                f"Random weights from seed {seed}: of {path} only shape and tokenizer are used."
            )
    else:
        tensors = file if file else huggingface.SafetensorsFolder(source)
        check_names(shape, tensors)
    shell = nnx.eval_shape(lambda: Transformer(shape, rngs=nnx.Rngs(0), **formats, **more))

    def read() -> Transformer:
        model = fill(shape, tensors, **formats, place=place)
        # How to compute is no part of the weights.
        return nnx.merge(nnx.graphdef(shell), nnx.state(model))

    return LoadedModel(
        shell,
        tokenizer,
        special.eos_id,
        special.stop_ids,
        special.pad_id,
        str(source),
        tuple(notes),
        read,
    )
