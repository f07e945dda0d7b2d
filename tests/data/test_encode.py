"""Rows as arrays: what is predicted from what, what counts, and what is too long."""

import numpy as np
import pytest

from cotjax.data.encode import encode_prompts, encode_supervised
from cotjax.errors import InputError

END = 99


class Letters:
    """One token a character; the end token pads, as in many real tokenizers."""

    pad_token_id = END

    def encode(self, text, *, add_special_tokens):
        assert add_special_tokens is False
        return [ord(letter) - ord("a") for letter in text]


def supervised(prompt, target, max_length=8):
    return encode_supervised(
        *(Letters(), prompt, target), eos_id=END, max_length=max_length, name="train:7"
    )


def test_the_example_of_the_docstring():
    row = supervised("abc", "de")
    np.testing.assert_array_equal(row["tokens"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(row["targets"], [1, 2, 3, 4, END])
    np.testing.assert_array_equal(row["weight"], [0, 0, 1, 1, 1])


def test_the_end_counts_even_where_it_also_pads():
    row = supervised("abc", "")
    assert row["targets"][-1] == END and row["weight"].sum() == row["weight"][-1] == 1


def test_every_target_token_counts_once_and_no_prompt_token():
    for before in range(1, 5):
        row = supervised("abcdef"[:before], "ghi")
        np.testing.assert_array_equal(row["targets"][row["weight"] > 0], [6, 7, 8, END])


def test_arrays_have_one_length_and_their_formats():
    row = supervised("abc", "de")
    assert {name: (len(x), x.dtype.name) for name, x in row.items()} == {
        "tokens": (5, "int32"),
        "targets": (5, "int32"),
        "weight": (5, "float32"),
    }


def test_a_row_may_be_exactly_full():
    assert len(supervised("abc", "defgh")["tokens"]) == 8


def test_an_example_that_is_too_long_names_record_and_key():
    with pytest.raises(InputError) as error:
        supervised("abc", "defghi")
    assert str(error.value) == (
        "train:7: the example has 9 tokens, the row 8. "
        "Set batch.sequence_length >= 9 or remove the record."
    )


def prompts(*texts, max_length=4, **more):
    ids, names = range(7, 7 + len(texts)), [f"test:{i}" for i in range(len(texts))]
    return encode_prompts(Letters(), texts, ids, max_length=max_length, names=names, **more)


def test_prompts_are_padded_on_the_left():
    batch = prompts("abcd", "ef", "")
    np.testing.assert_array_equal(
        batch.tokens, [[0, 1, 2, 3], [END, END, 4, 5], [END, END, END, END]]
    )
    np.testing.assert_array_equal(batch.mask, [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(batch.ids, [7, 8, 9])
    assert (batch.tokens.dtype, batch.mask.dtype, batch.ids.dtype) == (np.int32, bool, np.int32)


def test_a_prompt_that_is_too_long_names_record_and_key():
    with pytest.raises(InputError) as error:
        prompts("ab", "abcde")
    assert str(error.value) == (
        "test:1: the prompt has 5 tokens, the limit is 4. "
        "Set rollout.max_prompt_tokens >= 5 or remove the record."
    )
    with pytest.raises(InputError, match="Set eval.max_prompt_tokens >= 5 or remove"):
        prompts("ab", "abcde", key="eval.max_prompt_tokens")
