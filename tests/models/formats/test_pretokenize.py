"""Text is cut where llama.cpp cuts it: a second, slow implementation, and tables by hand."""

import pytest
import regex
from tokenizers import pre_tokenizers

from cotjax.models.formats.pretokenize import PRE_TOKENIZERS

TEXTS = [
    "The sum 12345 costs $1,234.50, doesn't it?",
    "a  5 b   12\n\n  3\t4 ",
    r"\[ \frac{12}{345} \times x^{2} = 7 \]",
    "Ünïcode ½ café 日本 ２３ ١٢ 🙂🙂 e\u0301",
    "I'LL we'Ve they're x's\r\n\r\nEND   ",
    "",
    "7",
]

# llama.cpp's patterns, one cut after the other; what no pattern matches stays as it is.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
CASELESS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
LINES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_CPP = {
    "gpt-2": [GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [CASELESS + r"\p{N}{1,3}" + LINES],
    "qwen2": [CASELESS + r"\p{N}" + LINES],
}


def cut(text: str, patterns: list[str]) -> list[str]:
    pieces = [text]
    for pattern in patterns:
        finer = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(pattern, piece):
                finer += [piece[end : match.start()], match.group()]
                end = match.end()
            finer.append(piece[end:])
        pieces = [piece for piece in finer if piece]
    return pieces


def spelled(pieces: list[str]) -> list[str]:
    """Each piece in the alphabet that byte-level vocabularies are written in."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [spell.pre_tokenize_str(piece)[0][0] for piece in pieces]


@pytest.mark.parametrize("name", LLAMA_CPP)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_llama_cpps(name: str, text: str) -> None:
    pieces = [piece for piece, _ in PRE_TOKENIZERS[name].splitter.pre_tokenize_str(text)]
    assert pieces == spelled(cut(text, LLAMA_CPP[name]))


@pytest.mark.parametrize("text", TEXTS)
def test_smollm_is_what_its_tokenizer_json_says(text: str) -> None:
    # pre_tokenizer of HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer.json.
    theirs = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    ours = PRE_TOKENIZERS["smollm"].splitter
    assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["Ġ", "Ġ12345"]),
        ("smollm", ["ĠĠ", "1", "2", "3", "4", "5"]),
        ("qwen2", ["Ġ", "Ġ", "1", "2", "3", "4", "5"]),
        ("llama-bpe", ["Ġ", "Ġ", "123", "45"]),
    ],
)
def test_how_long_numbers_are_cut(name: str, pieces: list[str]) -> None:
    found = PRE_TOKENIZERS[name].splitter.pre_tokenize_str("  12345")
    assert [piece for piece, _ in found] == pieces
