"""Gemma 2 and 3 in GGUF: four norms a layer, windows by a pattern, a SentencePiece vocabulary.

llama.cpp stores the factor of a norm, 1 + its weight in Hugging Face's files, and knows by the
family what its options leave out: which layers have a window, how scores are scaled. Sources:
llama.cpp's converter of Gemma 2 and 3, src/llama-model.cpp; transformers' `Gemma2TensorProcessor`.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from cotjax.errors import InputError, shown
from cotjax.models.architecture import Architecture, LayerType
from cotjax.models.formats.families import FAMILIES, tensor_names
from cotjax.models.formats.gguf import ROLES, File, built
from cotjax.models.rope import Rope

_FAMILIES = MappingProxyType({"gemma2": "gemma2", "gemma3": "gemma3_text"})
# The largest of each: there scores are divided by the root of hidden / heads, not of a head's size.
_LAYERS_OF_27B = MappingProxyType({"gemma2": 46, "gemma3": 62})
_PERIOD = MappingProxyType({"gemma2": 2, "gemma3": 6})  # every n-th layer sees everything
_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "attn_norm": "layers.attention_norm.scale",
        "attn_q": "layers.query.kernel",
        "attn_q_norm": "layers.query_norm.scale",
        "attn_k": "layers.key.kernel",
        "attn_k_norm": "layers.key_norm.scale",
        "attn_v": "layers.value.kernel",
        "attn_output": "layers.out.kernel",
        "post_attention_norm": "layers.attention_post_norm.scale",
        "ffn_norm": "layers.mlp_norm.scale",
        "ffn_gate": "layers.gate.kernel",
        "ffn_up": "layers.up.kernel",
        "ffn_down": "layers.down.kernel",
        "post_ffw_norm": "layers.mlp_post_norm.scale",
        "token_embd": "embed.embedding",
        "output_norm": "final_norm.scale",
        "output": "unembed_weight",
    }
)
_SIZES = (
    *("block_count", "embedding_length", "feed_forward_length", "attention.head_count"),
    *("attention.key_length", "attention.sliding_window", "context_length"),
)
_READ = frozenset(_SIZES) | {
    *("attention.head_count_kv", "attention.value_length", "attention.layer_norm_rms_epsilon"),
    *("attention.sliding_window_pattern", "attn_logit_softcapping", "final_logit_softcapping"),
    *("rope.freq_base", "rope.freq_base_swa", "rope.scaling.type", "rope.scaling.factor"),
    *("rope.dimension_count", "vocab_size"),
}
_UNUSED = (0, "", "none")
# Kinds of tokens: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
_CONTROL, _USER_DEFINED = frozenset({2, 3}), 4


class GemmaFile(File):
    """A GGUF file of Gemma 2 or 3; see `gguf.File`.

    Args:
      file: the same, opened by who did not know its family yet.
    """

    def __init__(self, file: File) -> None:
        vars(self).update(vars(file))  # a vocabulary of 262,144 tokens is parsed once
        self._tensors = {self._renamed(one.name): one for one in self._reader.tensors}
        if len(self._tensors) < len(self._reader.tensors):
            raise InputError(
                f"{self.origin}: two of its tensors have one name; convert the model anew."
            )
        self.shapes = {
            name: tuple(int(n) for n in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def _renamed(self, name: str) -> str:
        """A tensor's name in Hugging Face's spelling; an unknown one keeps its own."""
        head, _, rest = name.removesuffix(".weight").partition(".")
        layer, _, tail = rest.partition(".")
        leaf = _NAMES.get(tail if head == "blk" else head)
        return _huggingface_names()[leaf].format(layer) if leaf else name

    def architecture(self) -> Architecture:
        """The decoder that the metadata describes.

        Raises:
          InputError: an option that is missing or not honoured.
        """
        kind = self._architecture
        prefix = f"{kind}."
        found: dict[str, Any] = {
            key.removeprefix(prefix): self._option(key)
            for key in self._reader.fields
            if key.startswith(prefix)
        }
        for key, value in found.items():
            if key not in _READ and not (isinstance(value, str | int | float) and value in _UNUSED):
                raise InputError(
                    f"{self.origin}: option {prefix}{key} = {shown(value)} is not supported; use a "
                    "model without it."
                )
        if missing := [key for key in _SIZES if key not in found]:
            raise InputError(f"{self.origin}: no {prefix}{missing[0]}; the file is not complete.")
        kv_heads = found.get("attention.head_count_kv", found["attention.head_count"])
        if found["attention.head_count"] % kv_heads or found["attention.key_length"] % 2:
            raise InputError(
                f"{self.origin}: {prefix}attention.head_count = {found['attention.head_count']}, "
                f"head_count_kv = {kv_heads}, key_length = {found['attention.key_length']}; heads "
                "must divide by key-value heads and key_length by 2."
            )
        heads, hidden = found["attention.head_count"], found["embedding_length"]
        layers, head_dim = found["block_count"], found["attention.key_length"]
        unembed = _huggingface_names()["unembed_weight"]
        embed = self.shapes.get(_huggingface_names()["embed.embedding"], (0,))
        caps = (50.0, 30.0) if kind == "gemma2" else (0.0, 0.0)  # where the file leaves them out
        scalar = hidden // heads if layers == _LAYERS_OF_27B[kind] else head_dim
        return Architecture(
            family=_FAMILIES[kind],
            vocab_size=embed[0],
            hidden_size=hidden,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            mlp_size=found["feed_forward_length"],
            norm_eps=float(str(np.float32(found.get("attention.layer_norm_rms_epsilon", 1e-6)))),
            tie_embeddings=unembed not in self.shapes,
            max_positions=found["context_length"],
            query_scalar=0 if scalar == head_dim else scalar,
            attention_softcap=found.get("attn_logit_softcapping", caps[0]),
            logit_softcap=found.get("final_logit_softcapping", caps[1]),
            layer_types=self._layer_types(found, layers),
            sliding_window=found["attention.sliding_window"],
            **self._ropes(found),
            **FAMILIES[_FAMILIES[kind]].fixed,
        )

    def _layer_types(self, options: Mapping[str, Any], layers: int) -> tuple[LayerType, ...]:
        """By a period, or by a list that says of each layer whether it has a window."""
        pattern = options.get("attention.sliding_window_pattern", _PERIOD[self._architecture])
        if isinstance(pattern, int):
            pattern = [bool((i + 1) % pattern) for i in range(layers)]
        if len(pattern) != layers:
            raise InputError(
                f"{self.origin}: attention.sliding_window_pattern names {len(pattern)} layers, "
                f"block_count is {layers}; the file is not complete."
            )
        return tuple("sliding_attention" if one else "full_attention" for one in pattern)

    def _ropes(self, options: Mapping[str, Any]) -> dict[str, Rope]:
        """Of all layers; Gemma 3 turns those with a window by another base, never stretched."""
        scaling = options.get("rope.scaling.type", "none")
        if scaling not in ("none", "linear"):
            raise InputError(
                f"{self.origin}: option {self._architecture}.rope.scaling.type = {scaling!r} is "
                "not supported; use a model without it."
            )
        if self._architecture == "gemma2":
            return {"rope": Rope(options.get("rope.freq_base", 10_000.0))}
        theta, factor = options.get("rope.freq_base", 1e6), options.get("rope.scaling.factor", 1.0)
        stretched = scaling == "linear" and factor not in (0, 1)
        return {
            "rope": Rope(theta, "linear", float(factor)) if stretched else Rope(theta),
            "local_rope": Rope(options.get("rope.freq_base_swa", 10_000.0)),
        }

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised to float32; a norm's weight as Hugging Face has it."""
        from cotjax.models.formats.gguf_reader import expanded  # its package is optional

        values = expanded(self._tensors[name], self.origin).reshape(self.shapes[name])
        return values - 1 if name.endswith("norm.weight") else values

    def tokenizer(self) -> Any:
        """The tokenizer in the metadata, as a transformers `PreTrainedTokenizerFast`.

        Raises:
          InputError: its vocabulary is not SentencePiece's.
        """
        tokens, scores = (self._option(f"tokenizer.ggml.{one}") for one in ("tokens", "scores"))
        kind = self._option("tokenizer.ggml.model")
        if not tokens or not scores or kind != "llama":
            raise InputError(
                f'{self.origin}: tokenizer.ggml.model = "{kind}"; Gemma\'s is "llama", with scores.'
                " Use the model's Hugging Face folder."
            )
        ids = {role: self._id_of(key, len(tokens)) for role, key in ROLES.items()}
        special = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
        kinds = self._option("tokenizer.ggml.token_type", [1] * len(tokens))
        unknown = special.get("unk_token")
        make = functools.partial(sentencepiece_bpe, tokens, scores, kinds, unknown=unknown)
        backend = built(make, self.origin)
        if ids["bos"] is not None and self._option("tokenizer.ggml.add_bos_token", True):
            begin = special["bos_token"]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{begin} $A", special_tokens=[(begin, ids["bos"])]
            )
        # transformers warns that models need PyTorch; only its tokenizer is used here.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import PreTrainedTokenizerFast  # here: it takes seconds to import

        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=backend, clean_up_tokenization_spaces=False, **special
        )
        wrapped.chat_template = self._option("tokenizer.chat_template")
        return wrapped


def _huggingface_names() -> Mapping[str, str]:
    """The Hugging Face tensor name of each parameter of a Gemma; {} is the layer."""
    shape = Architecture("gemma2", 1, 1, 1, 1, 1, 1, 1, post_norms=True)
    return tensor_names(shape)


def sentencepiece_bpe(
    tokens: list[str], scores: list[float], kinds: list[int], *, unknown: str | None
) -> Tokenizer:
    """SentencePiece's BPE of a vocabulary with scores, as `tokenizers` runs it.

    A piece of a higher score is merged before one of a lower; what no piece spells is spelled in
    bytes, `<0x0A>`.

    Args:
      tokens: by id.
      scores: of each.
      kinds: of each, in GGUF's numbers.
      unknown: the token of what cannot be spelled.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    special = {token for token, kind in zip(tokens, kinds, strict=True) if kind in _CONTROL}
    merges: list[tuple[float, int, int, tuple[str, str]]] = []
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        if kind != 1:  # a control token, a byte, a user's: never made of others
            continue
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocabulary and right in vocabulary:
                merges.append((-score, vocabulary[left], vocabulary[right], (left, right)))
    merges.sort(key=lambda one: one[:3])
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in merges],
            unk_token=unknown,
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in tokens if token in special]
    )
    backend.add_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _USER_DEFINED
        ]
    )
    return backend


def open_gguf(path: str | Path) -> File:
    """The reader of a GGUF file, by its family.

    Raises:
      InputError: see `gguf.File`.
    """
    file = File(path)
    return GemmaFile(file) if file.kind in _FAMILIES else file
