r"""Tokens of a text from the tokens of its lines, so that each line is tokenised once.

A mask or a shuffle makes a new text of old lines. Most tokenizers cut text at line ends before
they merge anything, so a text's tokens are its lines' tokens, joined; whether the cut is behind
the newline (Qwen, Llama 3) or before it (GPT-2, SmolLM2) is tried out, and a tokenizer that does
neither has its whole texts cached.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

# The newline at which a text is cut, and whether it begins a piece or ends one. Where it begins
# one, white space before a digit stays whole for tokenizers that split digits off first.
CUTS = (
    (re.compile(r"\n(?:(?=[^\s\d])|(?<!\s\n)(?=\d))"), True),
    (re.compile(r"\n(?=\S)"), False),
)
PROBES = (
    "Question: How many?\nStep 1: 48/2 = 24.\nStep 2: so\n\n24\nAnswer: 24",
    "a \n\n\n b.\n#### 7\n<|mask|>\n- x)\n\t\\[ 6 \\times 7 \\]\n'll\n以下\n[步骤] é\r\nz\n",
)
VERIFIED = 256  # texts that are also tokenised whole and compared, after which cuts are trusted
CAPACITY = 2**18  # lines held, about 100 MB


Cut = tuple[re.Pattern[str], bool]


def _pieces(text: str, cut: Cut | None) -> list[str]:
    if cut is None:
        return [text]
    pattern, begins = cut
    pieces = pattern.split(text)
    if begins:
        return pieces[:1] + ["\n" + piece for piece in pieces[1:]]
    return [piece + "\n" for piece in pieces[:-1]] + pieces[-1:]


class TokenCache:
    """A tokenizer that remembers; its `encode` gives exactly what the tokenizer's does.

    Args:
      tokenizer: what it asks; `encode`, `eos_token_id`, `pad_token_id`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id: int = tokenizer.eos_token_id
        self.pad_token_id: int = tokenizer.pad_token_id
        self._ask = _backend(tokenizer)
        self._lines: dict[str, np.ndarray] = {}
        self._unverified = VERIFIED
        self._cut = next((cut for cut in CUTS if all(map(self._holds(cut), PROBES))), None)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> np.ndarray:
        """Ids [n] int32 of a text; not to be written to.

        Args:
          text: any string.
          add_special_tokens: must be False, as special tokens would stand between lines.
        """
        if add_special_tokens:
            raise ValueError("add_special_tokens = True: a cache of lines cannot add any.")
        pieces = _pieces(text, self._cut)
        known = self._lines
        try:
            ids = [known[piece] for piece in pieces]
        except KeyError:
            ids = self._learn(pieces)
        joined = ids[0] if len(ids) == 1 else np.concatenate(ids)
        if self._unverified and self._cut is not None:
            self._unverified -= 1
            whole = self._ask(text)
            if not np.array_equal(joined, whole):
                self._cut, self._lines = None, {text: whole}
                return whole
        return joined

    def _learn(self, pieces: list[str]) -> list[np.ndarray]:
        if len(self._lines) > CAPACITY:
            self._lines.clear()
        for piece in pieces:
            if piece not in self._lines:
                self._lines[piece] = self._ask(piece)
        return [self._lines[piece] for piece in pieces]

    def _holds(self, cut: Cut) -> Callable[[str], bool]:
        def holds(text: str) -> bool:
            joined = np.concatenate([self._ask(piece) for piece in _pieces(text, cut)])
            return np.array_equal(joined, self._ask(text))

        return holds

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes get the tokenizer and learn for themselves."""
        return vars(self) | {"_lines": {}, "_ask": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        vars(self).update(state)
        self._ask = _backend(self._tokenizer)


def _backend(tokenizer: Any) -> Callable[[str], np.ndarray]:
    """The shortest way to a tokenizer's ids: past transformers' Python, where there is one."""
    from transformers import PreTrainedTokenizerFast  # here: it takes seconds to import

    if isinstance(tokenizer, PreTrainedTokenizerFast):
        backend = tokenizer.backend_tokenizer

        def ask(text: str) -> np.ndarray:
            return np.asarray(backend.encode(text, add_special_tokens=False).ids, np.int32)

        if all(ask(text).tolist() == tokenizer.encode(text, add_special_tokens=False)
               for text in PROBES):  # fmt: skip
            return ask
    return lambda text: np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)
