"""The families of decoders that can be loaded and saved, as one table.

A family says which options its `config.json` may carry and what they mean for `Architecture`.
An option that the decoder does not honour is refused, never ignored: a model that loads
computes what its authors' code computes.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cotjax.errors import InputError
from cotjax.models.transformer import Architecture

# Hugging Face tensor name of each parameter; {} is the layer. A parameter is in a checkpoint
# when the decoder of that shape has it, so biases, norms and untied embeddings need no cases.
TENSOR_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "embed.embedding": "model.embed_tokens.weight",
        "layers.attention_norm.scale": "model.layers.{}.input_layernorm.weight",
        "layers.query.kernel": "model.layers.{}.self_attn.q_proj.weight",
        "layers.query.bias": "model.layers.{}.self_attn.q_proj.bias",
        "layers.query_norm.scale": "model.layers.{}.self_attn.q_norm.weight",
        "layers.key.kernel": "model.layers.{}.self_attn.k_proj.weight",
        "layers.key.bias": "model.layers.{}.self_attn.k_proj.bias",
        "layers.key_norm.scale": "model.layers.{}.self_attn.k_norm.weight",
        "layers.value.kernel": "model.layers.{}.self_attn.v_proj.weight",
        "layers.value.bias": "model.layers.{}.self_attn.v_proj.bias",
        "layers.out.kernel": "model.layers.{}.self_attn.o_proj.weight",
        "layers.mlp_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
        "layers.gate.kernel": "model.layers.{}.mlp.gate_proj.weight",
        "layers.up.kernel": "model.layers.{}.mlp.up_proj.weight",
        "layers.down.kernel": "model.layers.{}.mlp.down_proj.weight",
        "final_norm.scale": "model.norm.weight",
        "unembed_weight": "lm_head.weight",
    }
)


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
      class_name: what `architectures` in a saved config.json names.
      qkv_bias: see `Architecture`.
      qk_norm: see `Architecture`.
      head_dim: transformers' value when config.json has none; 0 = hidden_size / heads.
      kv_heads: likewise for `num_key_value_heads`; 0 = heads.
      max_positions: likewise for `max_position_embeddings`.
      neutral: options of this family that never change what we compute.
    """

    class_name: str
    qkv_bias: bool = False
    qk_norm: bool = False
    head_dim: int = 0
    kv_heads: int = 0
    max_positions: int = 32_768
    neutral: frozenset[str] = frozenset()


# Without use_sliding_window, which is refused, these two have no effect.
_WINDOW = frozenset({"sliding_window", "max_window_layers"})

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("LlamaForCausalLM", max_positions=2048),
        "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, kv_heads=32, neutral=_WINDOW),
        "qwen3": Family(
            "Qwen3ForCausalLM", qk_norm=True, kv_heads=32, head_dim=128, neutral=_WINDOW
        ),
    }
)

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_REQUIRED = (*_SIZES, "intermediate_size")
_READ = frozenset(
    (*_REQUIRED, "model_type", "num_key_value_heads", "head_dim", "rms_norm_eps")
    + ("rope_theta", "rope_scaling", "rope_parameters", "layer_types")
    + ("tie_word_embeddings", "max_position_embeddings")
)
# Token ids are the tokenizer's business; the rest describes the file or a way to run it.
_NEUTRAL = frozenset(
    {"architectures", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype"}
    | {"transformers_version", "transformers.js_config", "use_cache", "initializer_range"}
    | {"_name_or_path", "is_llama_config", "pretraining_tp"}
)
# Options that a config.json may spell out, but only with the value that we compute.
_FIXED: Mapping[str, Any] = MappingProxyType(
    {"hidden_act": "silu", "attention_dropout": 0.0, "partial_rotary_factor": 1.0}
)


def family_of(config: Mapping[str, Any], origin: str) -> Family:
    """The table entry of a config.json.

    Raises:
      InputError: its `model_type` is not in the table.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise InputError(
            f'{origin}: model_type = "{model_type}" is not a known architecture; '
            f"use a model of one of these: {', '.join(FAMILIES)}."
        )
    return FAMILIES[model_type]


def _refuse_unknown_options(config: Mapping[str, Any], family: Family, origin: str) -> None:
    for key, value in config.items():
        if key in _FIXED and value != _FIXED[key]:
            raise InputError(
                f"{origin}: {key} = {value!r} is not supported; "
                f"use a model with {key} = {_FIXED[key]!r}."
            )
        if key in _READ | _NEUTRAL | family.neutral | _FIXED.keys():
            continue
        if value is not None and value is not False:
            raise InputError(
                f"{origin}: option {key} = {value!r} is not supported. Use a model without it, "
                "or delete the key if it does not change what the model computes."
            )
    if unsupported := set(config.get("layer_types") or ()) - {"full_attention"}:
        raise InputError(
            f"{origin}: layer_types has {', '.join(sorted(unsupported))}; "
            "only full_attention is supported."
        )


def _rope_theta(config: Mapping[str, Any], origin: str) -> float:
    """The rotary base; transformers 5 moved it into `rope_parameters`."""
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        rope |= config.get(key) or {}
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    theta = rope.pop("rope_theta", config.get("rope_theta", 10_000.0))
    rope.pop("type", None)
    if rope.pop("partial_rotary_factor", 1.0) != 1.0 or kind != "default" or rope:
        shown = config.get("rope_scaling") or config.get("rope_parameters")
        raise InputError(
            f"{origin}: rotary scaling {shown!r} is not supported; use a model with plain "
            'rotary positions (rope_scaling = null, or rope_type = "default").'
        )
    return float(theta)


def architecture_of(config: Mapping[str, Any], origin: str) -> Architecture:
    """The decoder that a config.json describes.

    Args:
      config: the parsed file.
      origin: its name, for error messages.

    Raises:
      InputError: unknown architecture, missing size, an option that is not honoured, or head
        counts that do not fit.
    """
    family = family_of(config, origin)
    _refuse_unknown_options(config, family, origin)
    for key in _REQUIRED:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise InputError(
                f"{origin}: {key} = {config.get(key)!r}; a positive integer is needed."
            )
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    # null, as old files have it, means the same as a head per query head or hidden / heads.
    kv_heads = config.get("num_key_value_heads", family.kv_heads) or heads
    head_dim = config.get("head_dim", family.head_dim) or hidden // heads
    if heads % kv_heads or head_dim % 2:
        raise InputError(
            f"{origin}: num_attention_heads = {heads}, num_key_value_heads = {kv_heads}, "
            f"head_dim = {head_dim}; heads must divide by key-value heads and head_dim by 2."
        )
    return Architecture(
        family=config["model_type"],
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_size=config["intermediate_size"],
        rope_theta=_rope_theta(config, origin),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        tie_embeddings=config.get("tie_word_embeddings", False),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        max_positions=config.get("max_position_embeddings", family.max_positions),
    )


def config_of(shape: Architecture, dtype: str) -> dict[str, Any]:
    """The config.json of a decoder; `architecture_of` reads it back.

    Args:
      shape: the decoder.
      dtype: of the saved tensors, e.g. "float32".

    Returns:
      Options in the spelling that transformers 4 and 5 and vLLM read.
    """
    return {
        "architectures": [FAMILIES[shape.family].class_name],
        "model_type": shape.family,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "tie_word_embeddings": shape.tie_embeddings,
        "torch_dtype": dtype,
    }
