"""Stop strings as an automaton over tokens, which a compiled loop steps with one look-up.

The strings are searched in the bytes that the tokens stand for, so a string is found wherever it
lies: inside a token, at its border, or over several tokens.

Source: Aho and Corasick 1975, doi:10.1145/360825.360855.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cotjax.errors import InputError

_MOST_STATES = np.iinfo(np.int16).max


def _gpt2_alphabet() -> dict[str, int]:
    """The letter by which GPT-2's tokenizer spells each byte: itself if it can be printed."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


def _spelled(word: str, alphabet: dict[str, int]) -> bytes:
    """Bytes of a token in the GPT-2 alphabet; one with another letter stands for its own text."""
    if all(letter in alphabet for letter in word):
        return bytes(alphabet[letter] for letter in word)
    return word.encode()


def _sentence_piece(word: str) -> bytes:
    """Bytes of a token in SentencePiece's spelling: "▁" is a space, "<0x0A>" a byte."""
    if len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
        return bytes.fromhex(word[3:5])
    return word.replace("▁", " ").encode()


def token_bytes(tokenizer: Any, vocab_size: int) -> list[bytes]:
    """What each token adds to a text, in the middle of it.

    Args:
      tokenizer: a transformers fast tokenizer: byte-level, or of SentencePiece's spelling.
      vocab_size: V, the model's; ids without a token stand for nothing.
    """
    decoder = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    alphabet = _gpt2_alphabet()
    byte_level = '"ByteLevel"' in decoder
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    table = [b""] * vocab_size
    for word, index in tokenizer.get_vocab().items():
        if index in added:
            table[index] = added[index].encode()
        else:
            table[index] = _spelled(word, alphabet) if byte_level else _sentence_piece(word)
    return table


def _trie(stops: Sequence[bytes]) -> tuple[list[dict[int, int]], set[int]]:
    """Children by byte of every prefix of the strings (0 is the empty one), and the whole ones."""
    children: list[dict[int, int]] = [{}]
    whole = set()
    for stop in stops:
        state = 0
        for byte in stop:
            if byte not in children[state]:
                children[state][byte] = len(children)
                children.append({})
            state = children[state][byte]
        whole.add(state)
    return children, whole


def _byte_table(stops: Sequence[bytes]) -> Int[np.ndarray, "A 256"]:
    """The automaton over bytes; its last state is "found" and keeps itself."""
    children, whole = _trie(stops)
    table = np.zeros((len(children), 256), np.int64)
    longest_suffix = {0: 0}  # of each prefix, the longest other one that ends as it does
    queue = [0]
    for state in queue:  # by length, so that every suffix is complete before it is needed
        fall = longest_suffix[state]
        whole |= {state} if fall in whole else set()
        if state:
            table[state] = table[fall]
        for byte, child in children[state].items():
            longest_suffix[child] = table[fall, byte] if state else 0
            table[state, byte] = child
            queue.append(child)
    open_states = [state for state in range(len(children)) if state not in whole]
    number = np.full(len(children), len(open_states))
    number[open_states] = np.arange(len(open_states))
    return np.vstack([number[table[open_states]], np.full((1, 256), len(open_states))])


def _over_tokens(byte_table: np.ndarray, words: Sequence[bytes]) -> Int[np.ndarray, "A V"]:
    """Steps the automaton through every token's bytes, all tokens side by side."""
    states = np.repeat(np.arange(len(byte_table))[:, None], len(words), axis=1)
    lengths = np.array([len(word) for word in words])
    for place in range(lengths.max(initial=0)):
        (longer,) = np.nonzero(lengths > place)
        byte = np.array([words[index][place] for index in longer.tolist()])
        states[:, longer] = byte_table[states[:, longer], byte]
    return states


def _can_match(table: Int[np.ndarray, "A V"]) -> bool:
    """Whether any sequence of tokens leads from the first state to the last."""
    reached = frontier = {0}
    while frontier:
        frontier = set(np.unique(table[list(frontier)]).tolist()) - reached
        reached = reached | frontier
    return len(table) - 1 in reached


def stop_table(
    words: Sequence[bytes], stops: Sequence[str], *, key: str = "rollout.stop"
) -> Int[np.ndarray, "A V"]:
    """The automaton that finds stop strings in a text of tokens.

    state 0 = nothing found yet;  state' = table[state, token];  the last state = found, for good

    Args:
      words: V byte strings, what each token adds to a text; see `token_bytes`.
      stops: the strings; the first that the text contains counts.
      key: setting that the strings come from, for the error.

    Returns:
      [A, V] int16, as `generate` takes it.

    Raises:
      InputError: an empty string, one that no tokens spell, or too many letters.
    """
    if "" in stops:
        raise InputError(f'{key}: "" is in every text. Remove the empty string.')
    for stop in stops:
        if not _can_match(_over_tokens(_byte_table([stop.encode()]), words)):
            raise InputError(
                f"{key}: {stop!r} can never match: no tokens of this tokenizer spell it. "
                "Remove the string or use another one."
            )
    table = _over_tokens(_byte_table([stop.encode() for stop in stops]), words)
    if len(table) > _MOST_STATES:
        raise InputError(
            f"{key}: the strings have {len(table)} different beginnings, the limit is "
            f"{_MOST_STATES}. Use fewer or shorter strings."
        )
    return table.astype(np.int16)
