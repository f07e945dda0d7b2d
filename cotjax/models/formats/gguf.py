"""GGUF files, the format of llama.cpp: weights dequantised, the tokenizer rebuilt.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package parses the
file and knows the quantised formats; this module says what the names and options mean.
"""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from cotjax.errors import InputError, shown
from cotjax.models.formats.families import FAMILIES, TENSOR_NAMES, Family, turning_layers
from cotjax.models.formats.gguf_fields import value_of
from cotjax.models.formats.pretokenize import PRE_TOKENIZERS
from cotjax.models.formats.weights import Place, fill
from cotjax.models.rope import Rope
from cotjax.models.transformer import Architecture, Transformer

# llama.cpp's name of each tensor that `families.TENSOR_NAMES` names in Hugging Face's way.
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed.embedding": "token_embd.weight",
        "layers.attention_norm.scale": "blk.{}.attn_norm.weight",
        "layers.query.kernel": "blk.{}.attn_q.weight",
        "layers.query.bias": "blk.{}.attn_q.bias",
        "layers.query_norm.scale": "blk.{}.attn_q_norm.weight",
        "layers.key.kernel": "blk.{}.attn_k.weight",
        "layers.key.bias": "blk.{}.attn_k.bias",
        "layers.key_norm.scale": "blk.{}.attn_k_norm.weight",
        "layers.value.kernel": "blk.{}.attn_v.weight",
        "layers.value.bias": "blk.{}.attn_v.bias",
        "layers.out.kernel": "blk.{}.attn_output.weight",
        "layers.mlp_norm.scale": "blk.{}.ffn_norm.weight",
        "layers.gate.kernel": "blk.{}.ffn_gate.weight",
        "layers.up.kernel": "blk.{}.ffn_up.weight",
        "layers.down.kernel": "blk.{}.ffn_down.weight",
        "final_norm.scale": "output_norm.weight",
        "unembed_weight": "output.weight",
    }
)

_FAMILIES = ("llama", "qwen2", "qwen3", "smollm3", "granite")  # whose tensors have these names
_NEIGHBOURS = ("llama", "smollm3", "granite")  # whose rotary pairs are (2i, 2i + 1) there

# The options of an architecture, below its name: `llama.block_count` and so on.
_SIZES = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
# Granite's factors, by the field of `Architecture` that each one sets.
_SCALES: Mapping[str, str] = MappingProxyType(
    {
        "embedding_scale": "embedding_multiplier",
        "attention.scale": "attention_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
)
_READ = frozenset(
    (*_SIZES, "context_length", "vocab_size", "attention.head_count_kv", "attention.key_length")
    + ("attention.value_length", "attention.layer_norm_rms_epsilon")
    + ("rope.freq_base", "rope.dimension_count", *_SCALES)
)

_DIVISORS = "rope_freqs.weight"
_LEAST_DIVISOR = 1e-6  # far below 1, the least of any model, and far above float32's own least
_LLAMA3_POSITIONS = 8192  # of pre-training, in all of Llama 3.1, 3.2 and 3.3

_UNUSED = (0, "", "none")  # what an option that is not in use may say

ROLES = MappingProxyType({"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"})
_ENDS = tuple(f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot", "eom"))
# Control tokens that end a completion by their text: files from before `eot_token_id` name none.
# Source: llama.cpp, src/llama-vocab.cpp, where `special_eog_ids` is filled.
_END_TEXTS = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>"}
    | {"<EOT>", "<|end_of_text|>"}
)

_SPECIAL_TYPES = frozenset({2, 3})  # unknown and control tokens
_USER_DEFINED = 4


class File:
    """A GGUF file; see `weights.Tensors` for `origin`, `shapes` and `read`.

    Raises:
      InputError: not a complete GGUF file, or the `gguf` package is not installed.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __init__(self, path: str | Path) -> None:
        try:
            from cotjax.models.formats import gguf_reader
        except ImportError as error:
            raise InputError(
                f"{path}: reading GGUF files needs a package. Run: pip install 'cotjax[gguf]'"
            ) from error
        self.origin = str(path)
        self._reader = gguf_reader.open_reader(path)
        self._architecture: str = self._option("general.architecture", "")
        renamed = _huggingface_names(self._reader.tensors)
        self._tensors = dict(zip(renamed, self._reader.tensors, strict=True))
        if len(self._tensors) < len(renamed):
            raise InputError(f"{path}: two of its tensors have one name; convert the model anew.")
        self._divisors = self._tensors.pop(_DIVISORS, None)
        self.shapes = {
            name: tuple(int(n) for n in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def _option(self, key: str, default: Any = None) -> Any:
        value = value_of(self._reader, key, self.origin)
        return default if value is None else value

    @property
    def kind(self) -> str:
        """llama.cpp's name of the model's family."""
        return self._architecture

    @functools.cached_property
    def _tokens(self) -> list[str]:
        """The vocabulary, in the order of its ids."""
        return self._option("tokenizer.ggml.tokens", [])

    def architecture(self) -> Architecture:
        """The decoder that the metadata describes.

        Raises:
          InputError: unknown architecture, or an option that is not honoured.
        """
        name = self._architecture
        if name not in _FAMILIES:
            raise InputError(
                f'{self.origin}: general.architecture = "{name[:80]}" is not a known architecture; '
                f"use a model of one of these: {', '.join(_FAMILIES)}, gemma2, gemma3, or a "
                "Hugging Face folder."
            )
        found = {
            key.removeprefix(f"{name}."): self._option(key)
            for key in self._reader.fields
            if key.startswith(f"{name}.")
        }
        for key, value in found.items():
            if isinstance(value, list) or (key not in _READ and value not in _UNUSED):
                raise InputError(
                    f"{self.origin}: option {name}.{key} = {shown(value)} is not supported; use a "
                    "model without it."
                )
        if missing := [key for key in _SIZES if key not in found]:
            raise InputError(f"{self.origin}: no {name}.{missing[0]}; the file is not complete.")
        return self._from_options(found)

    def _from_options(self, options: Mapping[str, Any]) -> Architecture:
        family = FAMILIES[self._architecture]
        heads, hidden = options["attention.head_count"], options["embedding_length"]
        kv_heads = options.get("attention.head_count_kv", heads)
        key_length = options.get("attention.key_length")
        if min(heads, kv_heads) < 1 or heads % kv_heads or (not key_length and hidden % heads):
            raise InputError(
                f"{self.origin}: {self._architecture}.attention.head_count = {heads}, "
                f"head_count_kv = {kv_heads}, embedding_length = {hidden}; sizes must divide by "
                "heads, and heads by key-value heads."
            )
        head_dim = options.get("attention.key_length", hidden // heads)
        if head_dim < 2 or head_dim % 2:
            raise InputError(f"{self.origin}: heads of {head_dim} numbers; they must be in pairs.")
        for key in ("attention.value_length", "rope.dimension_count"):
            if options.get(key, head_dim) != head_dim:
                raise InputError(
                    f"{self.origin}: {self._architecture}.{key} = {options[key]} differs from "
                    f"the head size {head_dim}; such a model is not supported."
                )
        rows = self.shapes.get(TENSOR_NAMES["embed.embedding"], (0,))[0]
        return Architecture(
            family=self._architecture,
            vocab_size=rows or options.get("vocab_size", 0),
            hidden_size=hidden,
            num_layers=options["block_count"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            mlp_size=options["feed_forward_length"],
            rope=self._rope(float(options.get("rope.freq_base", 10_000.0)), head_dim),
            norm_eps=_shortest(options.get("attention.layer_norm_rms_epsilon", 1e-5)),
            tie_embeddings=TENSOR_NAMES["unembed_weight"] not in self.shapes,
            max_positions=options.get("context_length", 2048),
            nope_layers=_nope_layers(family, options["block_count"]),
            **{field: _shortest(options[key]) for key, field in _SCALES.items() if key in options},
            **family.fixed,
        )

    def _rope(self, theta: float, width: int) -> Rope:
        """Rotary positions; Llama 3's are stored as what divides each pair's frequency.

        The converter computed these divisors from settings that the file does not name, so the
        settings of Llama 3.1, 3.2 and 3.3 are tried and compared.

        Raises:
          InputError: divisors that no such settings give.
        """
        if self._divisors is None:
            return Rope(theta)
        divisors = self._expanded(self._divisors).reshape(-1)
        if not ((divisors >= _LEAST_DIVISOR) & (divisors <= 1 / _LEAST_DIVISOR)).all():
            raise InputError(f"{self.origin}: tensor {_DIVISORS} has numbers that divide nothing.")
        rope = Rope(theta, "llama3", float(divisors.max()), original_positions=_LLAMA3_POSITIONS)
        found = Rope(theta).frequencies(width) / rope.frequencies(width)
        if found.shape != divisors.shape or not np.allclose(found, divisors, rtol=1e-5):
            raise InputError(
                f"{self.origin}: tensor {_DIVISORS} divides rotary frequencies otherwise than "
                "Llama 3 does; such a model is not supported from GGUF. Use its Hugging Face "
                "folder."
            )
        return rope

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised to float32, rows in Hugging Face's order."""
        values = self._expanded(self._tensors[name])
        values = values.reshape(self.shapes[name])
        return self._unpermute(name, values) if self._architecture in _NEIGHBOURS else values

    def _expanded(self, tensor: Any) -> np.ndarray:
        from cotjax.models.formats.gguf_reader import expanded  # its package is optional

        return expanded(tensor, self.origin)

    def _unpermute(self, name: str, values: np.ndarray) -> np.ndarray:
        """Undoes llama.cpp's row order of queries and keys.

        Its rotary pairs are neighbours (2i, 2i + 1); Hugging Face's are halves (i, i + D/2).
        """
        key = f"{self._architecture}.attention.head_count"
        if name.endswith("q_proj.weight"):
            heads = self._option(key)
        elif name.endswith("k_proj.weight"):
            heads = self._option(f"{key}_kv") or self._option(key)
        else:
            return values
        if not heads or values.ndim != 2 or len(values) % (2 * heads):
            raise InputError(
                f"{self.origin}: tensor {name} {values.shape} does not divide by {key} = {heads}."
            )
        rows, width = values.shape
        pairs = values.reshape(heads, rows // heads // 2, 2, width)
        return pairs.swapaxes(1, 2).reshape(rows, width)

    def load(self, *, param_dtype: Any, dtype: Any, place: Place | None = None) -> Transformer:
        """The decoder with its weights; arguments and errors as for `huggingface.load`."""
        return fill(self.architecture(), self, param_dtype=param_dtype, dtype=dtype, place=place)

    def ends(self) -> dict[str, Any]:
        """What the file names as end tokens, by the key, and what llama.cpp takes for some."""
        ends = {key: self._option(key) for key in _ENDS}
        types = self._option("tokenizer.ggml.token_type", [])
        control = [
            i
            for i, (token, kind) in enumerate(zip(self._tokens, types, strict=False))
            if kind in _SPECIAL_TYPES and token in _END_TEXTS
        ]
        return ends | {"tokenizer.ggml.tokens": control}

    def tokenizer(self) -> Any:
        """The tokenizer in the metadata, as a transformers `PreTrainedTokenizerFast`.

        Raises:
          InputError: not byte-level BPE, or an unknown `tokenizer.ggml.pre`.
        """
        tokens, kind = self._tokens, self._option("tokenizer.ggml.model")
        if not tokens or kind != "gpt2":
            raise InputError(
                f'{self.origin}: tokenizer.ggml.model = "{kind}"; only byte-level BPE ("gpt2") '
                "is read from GGUF. Use the model's Hugging Face folder."
            )
        backend = built(self._backend, self.origin)
        special = {
            f"{role}_token": tokens[index]
            for role, key in ROLES.items()
            if (index := self._id_of(key, len(tokens))) is not None
        }
        # transformers warns that models need PyTorch; only its tokenizer is used here.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import PreTrainedTokenizerFast  # here: it takes seconds to import

        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
        )
        wrapped.chat_template = self._option("tokenizer.chat_template")
        return wrapped

    def _id_of(self, role: str, size: int) -> int | None:
        """The id of a special token; None if the file names none.

        Raises:
          InputError: there is no such token.
        """
        key = f"tokenizer.ggml.{role}_token_id"
        index = self._option(key)
        if index is not None and not 0 <= index < size:
            raise InputError(
                f"{self.origin}: {key} = {index}, but the file has {size} tokens. Convert the "
                "model anew, or use its Hugging Face folder."
            )
        return index

    def _backend(self) -> Tokenizer:
        tokens = self._tokens
        name = self._option("tokenizer.ggml.pre")
        if name not in PRE_TOKENIZERS:
            raise InputError(
                f'{self.origin}: tokenizer.ggml.pre = "{name}" is not known; this reader knows '
                f"{', '.join(PRE_TOKENIZERS)}. Use the model's Hugging Face folder."
            )
        pre = PRE_TOKENIZERS[name]
        merges = [tuple(merge.split(" ")) for merge in self._option("tokenizer.ggml.merges", [])]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        backend = Tokenizer(
            models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre.whole_words)
        )
        if pre.normalizer is not None:
            backend.normalizer = pre.normalizer
        backend.pre_tokenizer = pre.splitter
        backend.decoder = decoders.ByteLevel()
        types = self._option("tokenizer.ggml.token_type", [1] * len(tokens))
        backend.add_special_tokens(
            [
                AddedToken(token, special=True, normalized=False)
                for token, kind in zip(tokens, types, strict=True)
                if kind in _SPECIAL_TYPES
            ]
        )
        backend.add_tokens(
            [
                AddedToken(token, normalized=False)
                for token, kind in zip(tokens, types, strict=True)
                if kind == _USER_DEFINED
            ]
        )
        bos = self._id_of("bos", len(tokens))
        if bos is not None and self._option("tokenizer.ggml.add_bos_token", pre.adds_bos):
            backend.post_processor = processors.TemplateProcessing(
                single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
            )
        return backend


def built(make: Callable[[], Tokenizer], origin: str) -> Tokenizer:
    """A tokenizer from what a file says of it.

    Raises:
      InputError: tokens, merges and types that make none.
    """
    try:
        return make()
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise InputError(
            f"{origin}: tokenizer.ggml.* makes no tokenizer ({error}). Use the model's Hugging "
            "Face folder."
        ) from error


def _nope_layers(family: Family, number: int) -> tuple[int, ...]:
    """Layers that turn nothing by position: llama.cpp knows them by the family alone."""
    turns = turning_layers({**family.defaults, "num_hidden_layers": number})
    return tuple(i for i, one in enumerate(turns) if not one)


def _huggingface_names(tensors: list[Any]) -> list[str]:
    """The tensors' names in Hugging Face's spelling; unknown ones keep theirs."""
    one: dict[str, str] = {}
    for leaf, name in _NAMES.items():
        one[name.replace("blk.{}.", "")] = TENSOR_NAMES[leaf]
    renamed = []
    for tensor in tensors:
        head, _, rest = tensor.name.partition(".")
        layer, _, tail = rest.partition(".")
        if head == "blk" and tail in one:
            renamed.append(one[tail].format(layer))
        else:
            renamed.append(one.get(tensor.name, tensor.name))
    return renamed


def _shortest(value: float) -> float:
    """The shortest decimal with this float32: the file's 9.9999997e-06 was written as 1e-05."""
    return float(str(np.float32(value)))
