"""The metadata of a GGUF file: a type and a range for each key that is read."""

import pytest

from cotjax.errors import InputError
from cotjax.models.formats.gguf_fields import LONGEST_TOKEN, value_of


class Reader:
    """Stands for gguf's, with one field."""

    def __init__(self, key, value):
        self.key, self.value = key, value

    def get_field(self, key):
        return self if key == self.key else None

    def contents(self):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 10**9),
        ("llama.attention.head_count", 0),
        ("llama.embedding_length", "576"),
        ("llama.rope.freq_base", float("nan")),
        ("gemma2.attn_logit_softcapping", -1.0),
        ("gemma3.attention.sliding_window_pattern", "all"),
        ("tokenizer.ggml.tokens", ["a", 7]),
        ("tokenizer.ggml.tokens", ["a" * (LONGEST_TOKEN + 1)]),
        ("tokenizer.ggml.eos_token_id", -1),
        ("tokenizer.ggml.add_bos_token", 1),
        ("general.architecture", ["llama"]),
    ],
)
def test_a_wrong_type_or_range_names_the_file_and_the_key(key, value):
    with pytest.raises(InputError, match=f"^m.gguf: {key} = .* is (needed|read)"):
        value_of(Reader(key, value), key, "m.gguf")


def test_what_cannot_be_read_says_so():
    key = "tokenizer.chat_template"
    broken = Reader(key, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    with pytest.raises(InputError, match=f"^m.gguf: {key} cannot be read"):
        value_of(broken, key, "m.gguf")


@pytest.mark.parametrize(
    ("key", "value"),
    [("llama.block_count", 30), ("gemma2.final_logit_softcapping", 0.0), ("x.unknown", object())],
)
def test_the_rest_is_given_as_it_is(key, value):
    assert value_of(Reader(key, value), key, "m.gguf") is value
    assert value_of(Reader(key, value), "llama.other", "m.gguf") is None
