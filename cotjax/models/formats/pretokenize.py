"""How text is cut before byte-pair merges, by llama.cpp's name (`tokenizer.ggml.pre`).

The same merges over other pieces give other tokens, so each name is reproduced exactly.

Source: llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_bpe` and where `tokenizer_pre` is read.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, normalizers, pre_tokenizers


@dataclasses.dataclass(frozen=True)
class PreTokenizer:
    """What one name stands for.

    Attributes:
      splitter: cuts the text and spells its bytes in the GPT-2 alphabet.
      normalizer: applied before; None leaves the text alone.
      whole_words: a piece that is a token stays one, whatever the merges say.
      adds_bos: a text starts with the begin token unless the file says otherwise.
    """

    splitter: Any
    normalizer: Any = None
    whole_words: bool = False
    adds_bos: bool = False


def _pieces(*patterns: str) -> Any:
    """Cuts by each pattern in turn, inside the pieces of the one before; matches stand alone."""
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, spell])


# Contractions, then runs of letters, of digits and of other signs, each with the space before it.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _by_words(digits: str) -> str:
    """Llama 3's pattern; `digits` is how many stay together."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_DIGITS = PreTokenizer(_pieces(r"\p{N}", _GPT2))  # every digit stands alone
_QWEN2 = _by_words(r"\p{N}")
_LLAMA3 = PreTokenizer(_pieces(_by_words(r"\p{N}{1,3}")), whole_words=True, adds_bos=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "gpt-2": PreTokenizer(_pieces(_GPT2)),
        "default": PreTokenizer(
            _pieces(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
        ),
        **dict.fromkeys(("smollm", "refact", "starcoder"), _DIGITS),
        "llama-bpe": _LLAMA3,
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        # The composed form is Qwen's own; llama.cpp leaves it to the caller.
        "qwen2": PreTokenizer(_pieces(_QWEN2), normalizer=normalizers.NFC()),
        "deepseek-r1-qwen": PreTokenizer(_pieces(_QWEN2)),
    }
)
