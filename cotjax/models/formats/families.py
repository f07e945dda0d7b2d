"""The families of decoders that can be loaded and saved, as one table.

A family says which options its `config.json` may carry and what they mean for `Architecture`;
`config_json` reads and writes such a file by this table.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cotjax.models.architecture import Architecture

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
# With four norms a layer, "post_attention" is the norm behind attention, not before the MLP.
_FOUR_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "layers.attention_post_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
        "layers.mlp_norm.scale": "model.layers.{}.pre_feedforward_layernorm.weight",
        "layers.mlp_post_norm.scale": "model.layers.{}.post_feedforward_layernorm.weight",
    }
)


def tensor_names(shape: Architecture) -> Mapping[str, str]:
    """The Hugging Face tensor name of each parameter of a decoder; {} is the layer."""
    return {**TENSOR_NAMES, **_FOUR_NORMS} if shape.post_norms else TENSOR_NAMES


def _all_full(config: Mapping[str, Any]) -> list[str]:
    """No layer has a window."""
    return ["full_attention"] * config["num_hidden_layers"]


def _windows_above(config: Mapping[str, Any]) -> list[str]:
    """Windows from layer `max_window_layers` on (Qwen)."""
    full = config["max_window_layers"] if config["use_sliding_window"] else 10**9
    return [
        "full_attention" if i < full else "sliding_attention"
        for i in range(config["num_hidden_layers"])
    ]


def _every_nth_full(config: Mapping[str, Any]) -> list[str]:
    """Every n-th layer sees everything (Gemma)."""
    period = config.get("sliding_window_pattern") or 2
    return [
        "sliding_attention" if (i + 1) % period else "full_attention"
        for i in range(config["num_hidden_layers"])
    ]


def _windows_without_positions(config: Mapping[str, Any]) -> list[str]:
    """Windows, if any, where positions turn nothing (SmolLM3)."""
    windows = config["use_sliding_window"] and config["sliding_window"] is not None
    return [
        "sliding_attention" if windows and not turns else "full_attention"
        for turns in turning_layers(config)
    ]


def turning_layers(config: Mapping[str, Any]) -> list[int]:
    """1 for each layer whose queries and keys turn by position, 0 for others."""
    number, interval = config["num_hidden_layers"], config.get("no_rope_layer_interval")
    if config.get("no_rope_layers") is not None:
        return config["no_rope_layers"][:number]
    return [int(not interval or (i + 1) % interval > 0) for i in range(number)]


@dataclasses.dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face.

    Attributes:
      class_name: what `architectures` in a saved config.json names.
      fixed: fields of `Architecture` that all models of the family share.
      defaults: what transformers assumes for options that config.json leaves out. Its keys are
        read, beside those that every family has.
      layer_types: the kinds of layers where config.json does not list them.
    """

    class_name: str
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layer_types: Callable[[Mapping[str, Any]], list[str]] = _all_full


# Granite's factors; `Architecture` calls them so too.
MULTIPLIERS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier",
               "logits_scaling")  # fmt: skip
_QWEN = MappingProxyType(
    {
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    }
)
_GEMMA_FIXED = MappingProxyType(
    {
        "activation": "gelu_pytorch_tanh",
        "scale_embeddings": True,
        "offset_norms": True,
        "post_norms": True,
    }
)
# The text part of a file with images leaves out whatever is as here, sizes included.
_GEMMA = MappingProxyType(
    {
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
    }
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": Family("LlamaForCausalLM", defaults={"max_position_embeddings": 2048}),
        "qwen2": Family(
            "Qwen2ForCausalLM",
            fixed={"qkv_bias": True},
            defaults=_QWEN,
            layer_types=_windows_above,
        ),
        "qwen3": Family(
            "Qwen3ForCausalLM",
            fixed={"qk_norm": True},
            defaults={**_QWEN, "head_dim": 128},
            layer_types=_windows_above,
        ),
        "smollm3": Family(
            "SmolLM3ForCausalLM",
            defaults={
                "num_key_value_heads": 4,
                "rope_theta": 2_000_000.0,
                "tie_word_embeddings": True,
                "use_sliding_window": False,
                "sliding_window": None,
                "no_rope_layers": None,
                "no_rope_layer_interval": 4,
            },
            layer_types=_windows_without_positions,
        ),
        "granite": Family(
            "GraniteForCausalLM",
            defaults={"max_position_embeddings": 2048} | dict.fromkeys(MULTIPLIERS, 1.0),
        ),
        "gemma2": Family(
            "Gemma2ForCausalLM",
            fixed=_GEMMA_FIXED,
            defaults={
                **_GEMMA,
                "vocab_size": 256_000,
                "max_position_embeddings": 8192,
                "attn_logit_softcapping": 50.0,
                "final_logit_softcapping": 30.0,
            },
            layer_types=_every_nth_full,
        ),
        "gemma3_text": Family(
            "Gemma3ForCausalLM",
            fixed={**_GEMMA_FIXED, "qk_norm": True},
            defaults={
                **_GEMMA,
                "vocab_size": 262_208,
                "max_position_embeddings": 131_072,
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
                "sliding_window_pattern": 6,
            },
            layer_types=_every_nth_full,
        ),
    }
)
