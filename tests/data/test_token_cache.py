"""The cache of lines gives the tokenizer's own ids, whatever the tokenizer and the text."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from cotjax.data import token_cache as tokens
from cotjax.data.token_cache import CUTS, PROBES, SPACE, TokenCache
from cotjax.models.formats.load import load_tokenizer, resolve

GPT2 = r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS_FIRST = r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N}|$)|\s+(?!\S)|\s+"
WHOLE = r"[\s\S]+"  # merges run over line ends

LINES = [
    "Step 1: 4+4=8.",
    "",
    " ",
    "8\t",
    'so 48 of  "all" (4 )',
    "it 's ́x <|mask|> 8",
    "[MASK]",
    "a  b",
    "Answer: 8",
    "以下",
    ".",
    "e\u0301",
]
TEXT = st.lists(st.sampled_from(LINES) | st.text(max_size=8), max_size=8).map("\n".join)


def train(pattern):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["\n".join(LINES) + "\n\n", *PROBES, ".\n\n\n8\n"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )


@pytest.fixture(scope="module", params=["tiny", "gpt2", "smollm2", "qwen", "whole"])
def tokenizer(request):
    if request.param == "tiny":
        return load_tokenizer(resolve("tiny"))
    return train(
        {"gpt2": GPT2, "smollm2": DIGITS_FIRST, "qwen": QWEN, "whole": WHOLE}[request.param]
    )


@pytest.fixture(scope="module")
def cache(tokenizer):
    cache = TokenCache(tokenizer)
    cache._unverified = 0  # so that the cut alone is tested
    return cache


@given(text=TEXT)
def test_the_ids_are_the_tokenizer_s(tokenizer, cache, text):
    expected = tokenizer.encode(text, add_special_tokens=False)
    for _ in range(2):  # unknown, then known
        ids = cache.encode(text)
        assert ids.dtype == np.int32 and ids.tolist() == expected


def test_lines_are_asked_for_once():
    class Letters:
        pad_token_id = 0
        asked: list[str] = []

        def encode(self, text, *, add_special_tokens):
            self.asked.append(text)
            return [ord(letter) for letter in text]

    cache = TokenCache(Letters())
    cache._unverified = 0
    Letters.asked.clear()
    first, second = cache.encode("a\nb\nc"), cache.encode("c\nb\na\na")
    assert "".join(map(chr, first)) == "a\nb\nc" and "".join(map(chr, second)) == "c\nb\na\na"
    assert sorted(Letters.asked) == sorted(set(Letters.asked))


@pytest.mark.parametrize(("pattern", "cut"), [(GPT2, True), (QWEN, True), (WHOLE, False)])
def test_words_are_cut_apart_where_no_token_joins_them(pattern, cut):
    cache = TokenCache(train(pattern))
    assert (cache._space == SPACE) is cut
    if cut:
        cache.encode("4 pens, 4 pens, 4 pens")
        assert set(cache._words) == {"4", " pens,", " 4", " pens"}


def test_a_token_that_swallows_white_space_forbids_every_cut():
    tokenizer = train(GPT2)
    tokenizer.add_tokens([AddedToken("<gap>", rstrip=True)])
    cache = TokenCache(tokenizer)
    cache._unverified = 0
    for text in ("a <gap> b c", "a <gap>\nb"):
        assert cache.encode(text).tolist() == tokenizer.encode(text, add_special_tokens=False)


def test_texts_that_come_again_are_kept(cache, tokenizer):
    text = "Step 1: 4+4=8.\nAnswer: 8 again"
    first, second = (cache.encode(text, again=True) for _ in range(2))
    assert first.tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert np.shares_memory(first, second)


def test_a_cut_that_turns_out_wrong_is_given_up():
    class Sly:
        """Line by line on the probes, and not where it meets an x."""

        pad_token_id = 0

        def encode(self, text, *, add_special_tokens):
            return [len(text) if "xx" in text else 0, *map(ord, text)][0 if "xx" in text else 1 :]

    sly, text = Sly(), "a\nxx\nb"
    cache = TokenCache(sly)
    assert cache._cut in CUTS
    for _ in range(2):
        assert cache.encode(text).tolist() == sly.encode(text, add_special_tokens=False)
    assert cache._cut is None


def test_special_tokens_cannot_be_added(cache):
    with pytest.raises(ValueError, match="add_special_tokens"):
        cache.encode("a", add_special_tokens=True)


@pytest.mark.parametrize("kind", ["texts", "lines", "words"])
def test_what_is_held_has_a_limit(kind, tokenizer, monkeypatch):
    monkeypatch.setattr(tokens, "CAPACITY", 4)
    cache = TokenCache(tokenizer)
    for number in range(30):
        text = f"Step 1: {number} of\n- {number} pens"
        ids = cache.encode(text, again=kind == "texts")
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False)
        assert len(getattr(cache, f"_{kind}")) <= 4


def test_a_cache_travels_empty(tokenizer):
    cache = TokenCache(tokenizer)
    expected = cache.encode("Step 1: 7").tolist()
    copy = pickle.loads(pickle.dumps(cache))
    assert not copy._lines and copy.encode("Step 1: 7").tolist() == expected
