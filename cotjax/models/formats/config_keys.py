"""What is known of the keys of a config.json that the decoder does not read, as one table.

A key is refused if it changes what a model computes, noted if it does not, and refused if nobody
here knows it: a model that loads computes what its authors' code computes.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from cotjax.errors import InputError, shown

_OFF = (None, False, 0)  # what says of any option that it is not in use


@dataclasses.dataclass(frozen=True)
class Key:
    """One key, or those with one beginning.

    Attributes:
      effect: "file" describes the file or a way to run it, and every model has such keys;
        "harmless" is some software's own and changes nothing here; "maths" changes the numbers.
      why: what it means.
      off: a value with which it changes nothing, beside null, false and 0.
    """

    effect: Literal["file", "harmless", "maths"]
    why: str
    off: Any = None


def _each(effect: Literal["file", "harmless", "maths"], why: str, *names: str) -> dict[str, Key]:
    return dict.fromkeys(names, Key(effect, why))


_EXPERTS = "layers are mixtures of experts"
_LATENT = "attention keeps a latent in place of keys and values"
_MUP = "activations are scaled"
_IMAGES = "the model also reads images or sound"
_SAMPLING = "how transformers samples by default; rollout and eval have their own settings"
KEYS: Mapping[str, Key] = MappingProxyType(
    _each("file", "the class of transformers", "architectures", "auto_map", "is_llama_config")
    | _each("file", "special tokens, compared with the tokenizer's", "bos_token_id", "eos_token_id")
    | _each("file", "padding is the tokenizer's, and masked", "pad_token_id")
    | _each("file", "the stored number format", "dtype", "torch_dtype")
    | _each("file", "who wrote the file", "transformers_version", "transformers.js_config")
    | _each("file", "how to run, not what", "use_cache", "cache_implementation", "pretraining_tp")
    | _each("file", "the spread of new weights", "initializer_range")
    | _each("harmless", "a note of Unsloth", "unsloth*")
    | _each("harmless", "transformers' note to itself", "_*")
    | _each("harmless", "a name", "model_name", "name_or_path", "license", "tokenizer_class")
    | _each("harmless", "how to run, not what", "attn_implementation", "use_flash_attn")
    | _each("harmless", "how to train, not what", "gradient_checkpointing", "rope_scaling_type")
    | _each("harmless", "what transformers returns", "return_dict", "output_attentions")
    | _each("harmless", "what transformers returns", "output_hidden_states", "torchscript")
    | _each("harmless", "of classifiers", "id2label", "label2id", "problem_type", "num_labels")
    | _each("harmless", "of classifiers", "finetuning_task", "task_specific_params")
    | _each("harmless", "a token of other kinds of models", "sep_token_id", "cls_token_id")
    | _each("harmless", "a token of other kinds of models", "decoder_start_token_id")
    | _each("harmless", "a token of other kinds of models", "unk_token_id")
    | _each("harmless", _SAMPLING, "temperature", "top_k", "top_p", "do_sample", "num_beams")
    | _each("harmless", _SAMPLING, "repetition_penalty", "max_length", "min_length")
    | _each("harmless", _SAMPLING, "max_new_tokens")
    | _each("harmless", "a length that max_position_embeddings decides", "model_max_length")
    | _each("harmless", "a length that max_position_embeddings decides", "max_sequence_length")
    | _each("harmless", "a length that max_position_embeddings decides", "seq_length")
    | _each("harmless", "of layers with windows, which this family has not", "max_window_layers")
    | _each("harmless", "splits weights over devices", "tp_plan", "base_model_tp_plan")
    | _each("harmless", "a flag of other architectures", "is_decoder", "is_encoder_decoder")
    | {
        "rotary_pct": Key("maths", "positions turn a part of each head", 1.0),
        "partial_rotary_factor": Key("maths", "positions turn a part of each head", 1.0),
        "position_embedding_type": Key("maths", "positions are not rotary", "rope"),
    }
    | _each("maths", "positions are those of neighbours, not of halves", "rope_interleave")
    | _each("maths", "positions have several axes", "use_mrope", "mrope_section")
    | _each("maths", "some layers have no positions", "no_rope_layers", "no_rope_layer_interval")
    | _each("maths", "projections add biases, the attention's output too", "attention_bias")
    | _each("maths", "projections of the MLP add biases", "mlp_bias", "use_bias")
    | _each("maths", "training drops numbers", "attention_dropout", "hidden_dropout")
    | _each("maths", "training drops numbers", "resid_pdrop", "embd_pdrop", "embedding_dropout")
    | _each("maths", "keys and values are clipped", "clip_qkv")
    | _each("maths", "queries and keys are normed", "use_qk_norm", "qk_layernorm", "qk_norm")
    | _each("maths", "layers see a window", "sliding_window", "use_sliding_window")
    | _each("maths", "layers see a window", "sliding_window_pattern", "attention_chunk_size")
    | _each("maths", "a query sees what stands behind it", "use_bidirectional_attention")
    | _each("maths", "attention and MLP run side by side", "use_parallel_residual", "parallel_attn")
    | _each("maths", "scores are capped", "attn_logit_softcapping", "final_logit_softcapping")
    | _each("maths", "scores have another scale", "query_pre_attn_scalar")
    | _each("maths", "scores have another scale", "attn_temperature_tuning")
    | _each("maths", _EXPERTS, "num_experts", "num_local_experts", "n_routed_experts")
    | _each("maths", _EXPERTS, "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts")
    | _each("maths", _LATENT, "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "v_head_dim")
    | _each("maths", "layers share keys and values", "num_kv_shared_layers")
    | _each("maths", "layers have embeddings of their own", "hidden_size_per_layer_input")
    | _each("maths", _IMAGES, "vision_config", "audio_config", "cross_attention_layers")
    | _each("maths", "weights are packed into fewer bits", "quantization_config")
    | {
        name: Key("maths", _MUP, 1.0)
        for name in ("embedding_multiplier", "residual_multiplier", "attention_multiplier",
                     "logits_scaling", "logit_scale", "scale_emb", "scale_depth")
    }
)  # fmt: skip


def _key(name: str) -> Key | None:
    """What is known of a key; the table's own entry comes before one for a beginning."""
    begins = (one for end, one in KEYS.items() if end[-1] == "*" and name.startswith(end[:-1]))
    return KEYS.get(name) or next(begins, None)


def check_keys(config: Mapping[str, Any], read: frozenset[str], origin: str) -> tuple[str, ...]:
    """Refuses keys that may change the maths; a sentence on those that do not.

    Args:
      config: a config.json.
      read: its keys that the decoder honours.
      origin: the file, for the error.

    Raises:
      InputError: names the key, its value and what it means.
    """
    passed: dict[str, list[str]] = {}
    for name, value in config.items():
        key = _key(name)
        unused = value in ([], {}) or any(value is off or value == off for off in _OFF)
        if name in read or unused or (key and (key.effect == "file" or value == key.off)):
            continue
        if key is None:
            raise InputError(
                f"{origin}: option {name} = {shown(value)} is not known, so it may change what the "
                "model computes. Use a model without it, or delete the key if it does not."
            )
        if key.effect == "maths":
            raise InputError(
                f"{origin}: {name} = {shown(value)} is not supported: {key.why}. Use a model "
                "without it."
            )
        passed.setdefault(key.why, []).append(name)
    if not passed:
        return ()
    told = "; ".join(f"{', '.join(names)} ({why})" for why, names in passed.items())
    return (f"Not read in config.json, and without effect on the model: {told}.",)
