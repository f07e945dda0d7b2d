"""The built-in student's tokenizer without transformers, whose import takes half a second.

What a run asks of a tokenizer, the tokenizers library answers alone. Anything else is asked of
transformers' own tokenizer of the same folder, which is made when it is first needed.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

_NAMED = ("eos_token", "pad_token", "mask_token")


class BuiltInTokenizer:
    """Answers as `PreTrainedTokenizerFast.from_pretrained(folder)` does, which a test compares.

    Only for a tokenizer.json that adds no tokens around a text, and a tokenizer_config.json that
    names special tokens alone: `cotjax.data.build_tokenizer` writes both.

    Args:
      folder: that holds them.

    Attributes:
      backend_tokenizer: of the tokenizers library.
      chat_template: None, as there is none.
    """

    backend_tokenizer: Tokenizer
    chat_template: str | None

    def __init__(self, folder: Path) -> None:
        named = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        own = {"_folder": folder, "backend_tokenizer": backend, "chat_template": None}
        own |= {name: named[name] for name in _NAMED}
        own |= {f"{name}_id": backend.token_to_id(named[name]) for name in _NAMED}
        vars(self).update(own)

    @functools.cached_property
    def whole(self) -> Any:
        """The same of transformers, whose compiled one, with what is added to it, is used then."""
        from transformers import PreTrainedTokenizerFast  # here: see above

        whole = PreTrainedTokenizerFast.from_pretrained(vars(self)["_folder"])
        vars(self)["backend_tokenizer"] = whole.backend_tokenizer
        return whole

    def __getattr__(self, name: str) -> Any:
        """What only transformers knows."""
        if name.startswith("__"):  # what copy and pickle look for
            raise AttributeError(name)
        return getattr(self.whole, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets what transformers' own has, which answers for all attributes from now on."""
        setattr(self.whole, name, value)
        for own in vars(self).keys() - {"_folder", "backend_tokenizer", "whole"}:
            del vars(self)[own]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What transformers makes of a text."""
        return self.whole(*args, **kwargs)

    def __len__(self) -> int:
        """Tokens, added ones too."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by their id."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, text: Any, *args: Any, add_special_tokens: bool = True, **more: Any) -> Any:
        """Ids of a text; by transformers if it is there, for it undoes what a call before set."""
        if args or more or not isinstance(text, str) or "whole" in vars(self):
            return self.whole.encode(text, *args, add_special_tokens=add_special_tokens, **more)
        return self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **more: Any) -> Any:
        """The text of an id or of a row of ids."""
        ids = [token_ids] if isinstance(token_ids, int) else _row(token_ids)
        if more or ids is None:
            return self.whole.decode(token_ids, skip_special_tokens=skip_special_tokens, **more)
        return self.backend_tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **more: Any) -> Any:
        """The texts of rows of ids."""
        rows: list[Any] = [_row(one) for one in sequences]
        if more or None in rows:
            return self.whole.batch_decode(
                sequences, skip_special_tokens=skip_special_tokens, **more
            )
        decode = self.backend_tokenizer.decode
        return [decode(row, skip_special_tokens=skip_special_tokens) for row in rows]

    def convert_ids_to_tokens(self, ids: Any, *args: Any, **more: Any) -> Any:
        """The token of an id, None if there is none; or those of a row of ids."""
        token, row = self.backend_tokenizer.id_to_token, _row(ids)
        if isinstance(ids, int) and not (args or more):
            return token(ids)
        if args or more or row is None:
            return self.whole.convert_ids_to_tokens(ids, *args, **more)
        return [token(one) for one in row]


def _row(ids: Any) -> list[int] | None:
    """A row of ids as the tokenizers library takes it; None for anything else."""
    if isinstance(ids, np.ndarray):
        return ids.tolist() if ids.ndim == 1 and ids.dtype.kind in "iu" else None
    if isinstance(ids, list) and all(isinstance(one, int | np.integer) for one in ids):
        return [int(one) for one in ids]
    return None
