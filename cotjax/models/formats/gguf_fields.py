"""What the metadata of a GGUF file may say: a type and a range for each key that is read."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cotjax.errors import InputError
from cotjax.models.formats.kinds import (
    MOST_HEADS,
    MOST_LAYERS,
    MOST_POSITIONS,
    MOST_ROWS,
    MOST_WIDTH,
    NUMBER,
    TEXT,
    TEXTS,
    TRUTH,
    Kind,
    check_kind,
    each,
    is_whole,
    whole,
)

_ID = whole(MOST_ROWS, least=0)
_CAP = Kind(lambda value: value == 0 or NUMBER.holds(value), "a number from 0 on")
_PATTERN = Kind(
    lambda value: (
        is_whole(value, 1, MOST_LAYERS) or (isinstance(value, list) and len(value) <= MOST_LAYERS)
    ),
    "a period or a list of true and false",
)
LONGEST_TOKEN = 1024  # letters; merges are looked for between any two of them
# By what follows the first dot of a key: `llama.block_count`, `tokenizer.ggml.tokens`.
_KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "architecture": TEXT,
        "block_count": whole(MOST_LAYERS),
        "vocab_size": whole(MOST_ROWS),
        "context_length": whole(MOST_POSITIONS),
        "attention.sliding_window": whole(MOST_POSITIONS, least=0),
        "attention.sliding_window_pattern": _PATTERN,
        "rope.scaling.type": TEXT,
        "ggml.model": TEXT,
        "ggml.pre": TEXT,
        "ggml.tokens": Kind(
            lambda value: TEXTS.holds(value) and max(map(len, value), default=0) <= LONGEST_TOKEN,
            f"a list of texts of at most {LONGEST_TOKEN} letters",
        ),
        "ggml.merges": TEXTS,
        "ggml.scores": each(lambda one: isinstance(one, float) and one == one, "numbers"),
        "ggml.token_type": each(lambda one: is_whole(one, 0), "integers"),
        "ggml.add_bos_token": TRUTH,
        "chat_template": TEXT,
    }
    | dict.fromkeys(("embedding_length", "feed_forward_length"), whole(MOST_WIDTH))
    | dict.fromkeys(
        [f"attention.{one}" for one in ("head_count", "head_count_kv", "key_length")]
        + ["attention.value_length", "rope.dimension_count"],
        whole(MOST_HEADS),
    )
    | dict.fromkeys(
        ("rope.freq_base", "rope.freq_base_swa", "logit_scale")
        + ("attention.layer_norm_rms_epsilon", "attention.scale", "embedding_scale")
        + ("residual_scale",),
        NUMBER,
    )
    | dict.fromkeys(
        ("attn_logit_softcapping", "final_logit_softcapping", "rope.scaling.factor"), _CAP
    )
    | {f"ggml.{role}_token_id": _ID for role in ("bos", "eos", "unknown", "padding", "eot", "eom")}
)


def value_of(reader: Any, key: str, origin: str) -> Any:
    """The value of a key; None if the file does not have it.

    Args:
      reader: a `gguf.GGUFReader`.
      key: with its architecture, `llama.block_count`.
      origin: the file, for the error.

    Raises:
      InputError: it cannot be read, or is of a wrong type or range.
    """
    field = reader.get_field(key)
    if field is None:
        return None
    try:
        value = field.contents()
    except (ValueError, LookupError, TypeError) as error:  # a text that is not UTF-8
        raise InputError(f"{origin}: {key} cannot be read ({error}).") from error
    kind = _KINDS.get(key.partition(".")[2])
    if kind is not None:
        check_kind(value, kind, key, origin)
    return value
