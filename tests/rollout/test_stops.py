"""Stop strings: rows end at the token with which their text first contains one."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from cotjax.errors import InputError
from cotjax.interfaces import End, PromptBatch
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from cotjax.rollout.stops import stop_table, token_bytes
from tests.tiny import SHAPE, make_policy

WORDS = [b"", b"a", b"b", b"ab", b"ba", b"aab", b"c", b"bc", b"\xc3", b"\xa9"]


def walk(table, tokens):
    """Number of tokens after which a string is found; None if it never is."""
    state = 0
    for count, token in enumerate(tokens, 1):
        state = table[state, token]
        if state == len(table) - 1:
            return count
    return None


def search(stops, tokens):
    """`walk` by looking into the text."""
    for count in range(1, len(tokens) + 1):
        text = b"".join(WORDS[token] for token in tokens[:count])
        if any(stop.encode() in text for stop in stops):
            return count
    return None


@pytest.mark.parametrize(
    "stops", [["a"], ["abab"], ["aabaab", "bcb"], ["abc", "b"], ["aaa", "aab", "ba"], ["é", "cé"]]
)
def test_the_automaton_finds_what_a_search_in_the_text_finds(stops):
    table = stop_table(WORDS, stops)
    assert table.dtype == np.int16 and table.shape[1] == len(WORDS)
    assert (table[-1] == len(table) - 1).all(), "found is found"
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, len(WORDS), 12) for _ in range(300)]
    found = [walk(table, text) for text in texts]
    assert found == [search(stops, text) for text in texts]
    assert any(found)


def test_an_empty_string_is_refused():
    with pytest.raises(InputError, match='rollout.stop: "" is in every text'):
        stop_table(WORDS, ["ab", ""])


@pytest.mark.parametrize("stop", ["d", "abd", "è"])
def test_a_string_that_no_tokens_spell_is_refused(stop):
    with pytest.raises(InputError, match=f"--stop: '{stop}' can never match"):
        stop_table(WORDS, ["ab", stop], key="--stop")


def test_too_many_letters_are_refused():
    with pytest.raises(InputError, match="different beginnings, the limit is 32767"):
        stop_table([b"a"], ["a" * 40_000])


# What tokens stand for.


def test_bytes_of_the_built_in_tokenizer_are_its_texts():
    tokenizer = load_tokenizer(resolve("tiny"))
    words = token_bytes(tokenizer, SHAPE.vocab_size)
    text = 'Step 1: 3 € for "Zoë",\n\tor 7.<|nothing|>'
    ids = tokenizer.encode(text + tokenizer.eos_token, add_special_tokens=False)
    assert b"".join(words[i] for i in ids).decode() == text + tokenizer.eos_token
    assert len(words) == SHAPE.vocab_size


def test_bytes_of_a_sentence_piece_tokenizer_are_its_texts():
    vocab = {"▁the": 0, "▁": 1, "é": 2, "<0x0A>": 3, "</s>": 4}
    backend = Tokenizer(models.BPE(vocab, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert token_bytes(tokenizer, 6) == [b" the", b" ", "é".encode(), b"\n", b"</s>", b""]


# Inside the engine.


@pytest.mark.parametrize("refill", [False, True])
def test_completions_stop_where_the_text_first_contains_the_string(refill):
    """And are, up to there, what they are without stop strings."""
    tokenizer = load_tokenizer(resolve("tiny"))
    words = token_bytes(tokenizer, SHAPE.vocab_size)
    policy, params = make_policy(dataclasses.replace(SHAPE, num_layers=1))
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, SHAPE.vocab_size, (4, 3)).astype(np.int32)
    prompts = PromptBatch(tokens, np.ones((4, 3), bool), np.arange(4, dtype=np.int32))
    settings = Sampling(4, 12, eos_id=tokenizer.eos_token_id, pad_id=1)
    key = jax.random.key(0)
    free = jax.device_get(generate(policy, params, prompts, key, settings=settings))
    # The last letter of one token and the first of the next.
    pairs = [words[a][-1:] + words[b][:1] for a, b in itertools.pairwise(free.tokens[0, 0, :6])]
    stops = [next(pair.decode() for pair in pairs if len(pair) == 2 and pair.isascii()), "e"]
    if refill:
        settings = dataclasses.replace(settings, rows=4, share=1)
    table = stop_table(words, stops)
    found = generate(policy, params, prompts, key, settings=settings, stop_table=table)
    found = jax.device_get(found)
    stopped = 0
    for before, size, after, mask, end in zip(
        *(x.reshape(16, *x.shape[2:]) for x in (free.tokens, free.mask.sum(-1), found.tokens,
                                               found.mask, found.end)), strict=True,
    ):  # fmt: skip
        count = next(
            (n for n in range(1, size + 1)
             if any(stop.encode() in b"".join(words[t] for t in before[:n]) for stop in stops)),
            None,
        )  # fmt: skip
        assert mask.sum() == (count or size)
        assert (after[: mask.sum()] == before[: mask.sum()]).all()
        if count and before[count - 1] != settings.eos_id:
            assert end == End.STOP
            stopped += 1
    assert 0 < stopped < 16
