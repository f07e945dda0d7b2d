r"""Tokens of a text from the tokens of its lines and words, so that each is tokenised once.

A mask or a shuffle makes a new text of old lines, and a new line is made of old words. Most
tokenizers cut text at line ends before they merge anything, so a text's tokens are its lines'
tokens, joined; whether the cut is behind the newline (Qwen, Llama 3) or before it (GPT-2, SmolLM2)
is tried out, and a tokenizer that does neither has its whole texts cached. A line may be cut before
a space between two words if no token of the vocabulary reaches over such a place: merges then
never do, whatever the tokenizer cuts itself.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class TokenSlice:
    """Where a text is cut.

    Attributes:
      pattern: the sign at which it is.
      mark: that sign.
      begins: whether it begins a piece or ends one.
    """

    pattern: re.Pattern[str]
    mark: str
    begins: bool

    def pieces(self, text: str) -> list[str]:
        """The text in pieces."""
        pieces, mark = self.pattern.split(text), self.mark
        if self.begins:
            return pieces[:1] + [mark + piece for piece in pieces[1:]]
        return [piece + mark for piece in pieces[:-1]] + pieces[-1:]


# Where a newline begins a piece, white space before a digit stays whole for tokenizers that split
# digits off first.
CUTS = (
    TokenSlice(re.compile(r"\n(?:(?=[^\s\d])|(?<!\s\n)(?=\d))"), "\n", begins=True),
    TokenSlice(re.compile(r"\n(?=\S)"), "\n", begins=False),
)
SPACE = TokenSlice(re.compile(r"(?<=\S) (?=\S)"), " ", begins=True)
PROBES = (
    "Question: How many?\nStep 1: 48/2 = 24.\nStep 2: so\n\n24\nAnswer: 24",
    "a \n\n\n b.\n#### 7\n<|mask|>\n- x)\n\t\\[ 6 \\times 7 \\]\n'll\n以下\n[步骤] é\r\nz\n",
)
VERIFIED = 256  # texts that are also tokenised whole and compared, after which cuts are trusted
CAPACITY = 2**18  # texts held of each kind; of lines that is about 100 MB

# A space behind another sign, as vocabularies spell it: bytes in the GPT-2 alphabet, or U+2581.
_OVER_SPACE = re.compile(r"[^ĠĊĉčċČ▁\s][Ġ▁ ]")


def _pieces(text: str, cut: TokenSlice | None) -> list[str]:
    return [text] if cut is None else cut.pieces(text)


class _Known(dict[str, bytes]):
    """Texts to their ids as bytes, made when they are first needed."""

    def __init__(self, make: Callable[[str], bytes]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> bytes:
        if len(self) >= CAPACITY:
            self.clear()
        ids = self[text] = self._make(text)
        return ids


class TokenCache:
    """A tokenizer that remembers; its `encode` gives exactly what the tokenizer's does.

    Args:
      tokenizer: the one that it calls; `encode`, `pad_token_id`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.pad_token_id: int = tokenizer.pad_token_id
        self._unverified = VERIFIED
        self._open()
        cuts = CUTS if _keeps_white_space(tokenizer) else ()
        self._cut = next((cut for cut in cuts if all(map(self._holds(cut), PROBES))), None)
        self._space = SPACE if self._cut and _words_stand_alone(tokenizer) else None
        if self._space and not all(map(self._holds(SPACE), PROBES)):
            self._space = None

    def encode(
        self, text: str, *, add_special_tokens: bool = False, again: bool = False
    ) -> np.ndarray:
        """Ids [n] int32 of a text; not to be written to.

        Args:
          text: any string.
          add_special_tokens: must be False, as special tokens would stand between lines.
          again: the very same text will come again, so that its ids are kept, not its lines' alone.
        """
        if add_special_tokens:
            raise ValueError("add_special_tokens = True: a cache of lines cannot add any.")
        return np.frombuffer(self._texts[text] if again else self._by_lines(text), np.int32)

    def _by_lines(self, text: str) -> bytes:
        joined = b"".join(map(self._lines.__getitem__, _pieces(text, self._cut)))
        if self._unverified and self._cut is not None:
            self._unverified -= 1
            whole = self._ask(text)
            if joined != whole:
                self._cut = self._space = None
                self._open()
                return whole
        return joined

    def _by_words(self, line: str) -> bytes:
        return b"".join(map(self._words.__getitem__, _pieces(line, self._space)))

    def _holds(self, cut: TokenSlice) -> Callable[[str], bool]:
        def holds(text: str) -> bool:
            return b"".join(map(self._ask, _pieces(text, cut))) == self._ask(text)

        return holds

    def _open(self) -> None:
        """Nothing is known."""
        self._ask = _backend(self._tokenizer)
        self._texts, self._lines = _Known(self._by_lines), _Known(self._by_words)
        self._words = _Known(self._ask)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes get the tokenizer and learn for themselves."""
        unknown = ("_ask", "_texts", "_lines", "_words")
        return {name: value for name, value in vars(self).items() if name not in unknown}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        vars(self).update(state)
        self._open()


def _is_fast(tokenizer: Any) -> bool:
    """Whether a tokenizer is around a compiled one, as transformers' fast ones are."""
    return isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer)


def _keeps_white_space(tokenizer: Any) -> bool:
    """Whether no added token swallows the white space beside it, at which texts are cut."""
    if not _is_fast(tokenizer):
        return True
    added = tokenizer.added_tokens_decoder.values()
    return not any(token.lstrip or token.rstrip for token in added)


def _words_stand_alone(tokenizer: Any) -> bool:
    """Whether no token holds a space behind another sign, so that no merge joins two words."""
    if not _is_fast(tokenizer):
        return False
    return not any(map(_OVER_SPACE.search, tokenizer.get_vocab()))


def _backend(tokenizer: Any) -> Callable[[str], bytes]:
    """The shortest way to a tokenizer's ids: past transformers' Python, where there is one."""
    if _is_fast(tokenizer):
        backend = tokenizer.backend_tokenizer

        def ask(text: str) -> bytes:
            ids = backend.encode(text, add_special_tokens=False).ids
            return np.asarray(ids, np.int32).tobytes()

        if all(ask(text) == _plain(tokenizer, text) for text in PROBES):
            return ask
    return functools.partial(_plain, tokenizer)


def _plain(tokenizer: Any, text: str) -> bytes:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32).tobytes()
