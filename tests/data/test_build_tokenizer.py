"""The built-in tokenizer: any text survives it, digits stand alone, and its recipe rebuilds it."""

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotjax.data import build_tokenizer
from cotjax.data.problems import ProblemSource
from cotjax.models.formats.load import load_tokenizer, resolve

FOLDER = resolve("tiny")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


@given(st.text())
def test_any_text_round_trips(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(st.integers(0, 10**12).map(str))
def test_digits_are_one_token_each(tokenizer, digits):
    assert tokenizer.tokenize(digits) == list(digits)
    assert tokenizer.tokenize(f"{digits}+{digits}={digits}") == [
        *digits, "+", *digits, "=", *digits
    ]  # fmt: skip


def test_every_word_of_the_problems_is_one_token(tokenizer):
    for share in (0.0, 1.0):
        source = ProblemSource("test", 0, 1, 8, concise_share=share)
        for record in (source[index] for index in range(50)):
            text = f" {record.question} {' '.join(record.steps)}"  # they follow a space
            pieces = [tokenizer.decode([i]).strip() for i in tokenizer.encode(text)]
            words = [piece for piece in pieces if piece.isalpha()]
            assert words == re.findall("[A-Za-z]+", text)


def test_the_special_tokens_are_distinct_and_known(tokenizer):
    ids = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id
    assert ids == (0, 1, 2)
    assert tokenizer.encode("<|end|>") == [tokenizer.eos_token_id]


def test_the_recipe_rebuilds_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build_tokenizer", "--out", str(tmp_path)])
    build_tokenizer.main()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert Path(tmp_path, name).read_bytes() == (FOLDER / name).read_bytes(), name
