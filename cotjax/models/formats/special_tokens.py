"""The tokens with which a model ends and pads: what its files name, held against each other.

A tokenizer has one end token, but a model may end a turn with others: Gemma's tokenizer names
<eos> and its chats end with <end_of_turn>. Every id that a file names ends a completion.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cotjax.errors import InputError, shown

_NARROW = 0.9  # share of the embedding's rows below which a tokenizer may be another model's


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """What a completion ends and is padded with.

    Attributes:
      eos_id: the tokenizer's end token, with which supervised targets end.
      stop_ids: further tokens that end a completion.
      pad_id: fills rows; may equal `eos_id`.
      notes: what a reader of the run should know, one sentence each.
    """

    eos_id: int
    stop_ids: tuple[int, ...]
    pad_id: int
    notes: tuple[str, ...]


def special_tokens(
    tokenizer: Any, rows: int, ends: Mapping[str, Any], origin: str
) -> SpecialTokens:
    """The special tokens of a model; its tokenizer is given a padding token if it has none.

    Args:
      tokenizer: a transformers tokenizer. Added tokens for which there is no embedding are taken
        out of it.
      rows: of the embedding.
      ends: an id or a list of ids by the place that names it, such as
        "generation_config.json: eos_token_id".
      origin: the model's folder or file, for errors.

    Raises:
      InputError: no end token, one that the tokenizer or the embedding does not have, or a
        tokenizer that is wider than the embedding.
    """
    notes = _fit(tokenizer, rows, origin)
    named = {
        one: place
        for place, ids in ends.items()
        for one in _ids(ids, tokenizer, rows, f"{origin}: {place}")
    }
    if tokenizer.eos_token_id is None:
        if not named:
            raise InputError(
                f"{origin}: the tokenizer names no end token, so completions could not end; "
                'set "eos_token" in tokenizer_config.json.'
            )
        first = next(iter(named))
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
        notes.append(
            f"The tokenizer names no end token; {tokenizer.eos_token!r} ends a text, as "
            f"{named[first]} says."
        )
    eos_id: Any = tokenizer.eos_token_id
    stop_ids = tuple(one for one in named if one != eos_id)
    if stop_ids:
        also = ", ".join(f"{tokenizer.convert_ids_to_tokens(one)!r}" for one in stop_ids)
        places = ", ".join(dict.fromkeys(named[one] for one in stop_ids))
        notes.append(
            f"A completion ends with {tokenizer.eos_token!r} and also with {also}, as {places} "
            "says."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(
            f"The tokenizer has no padding token; the end token {tokenizer.eos_token!r} pads."
        )
    pad_id: Any = tokenizer.pad_token_id
    return SpecialTokens(eos_id, stop_ids, pad_id, tuple(notes))


def _ids(value: Any, tokenizer: Any, rows: int, place: str) -> list[int]:
    """The ids that a file names, none if it says null.

    Raises:
      InputError: one is no token of the tokenizer, or has no embedding.
    """
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for one in ids:
        whole = isinstance(one, int) and not isinstance(one, bool)
        if not whole or not 0 <= one < rows or tokenizer.convert_ids_to_tokens(one) is None:
            last = max(tokenizer.get_vocab().values())
            raise InputError(
                f"{place} = {shown(value)}: {shown(one)} is not a token of its tokenizer, which "
                f"has ids up to {last} for {rows} embeddings. Correct the id, or take the "
                "tokenizer of the same model."
            )
    return ids


def _fit(tokenizer: Any, rows: int, origin: str) -> list[str]:
    """Takes added tokens that have no embedding out of a tokenizer; says which.

    Raises:
      InputError: others have none, or the end token does not.
    """
    backend = tokenizer.backend_tokenizer
    widest = max(backend.get_vocab(with_added_tokens=False).values(), default=-1)
    added = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items()}
    beyond = {id_: token for id_, token in sorted(added.items()) if id_ >= rows}
    if widest >= rows or tokenizer.eos_token in beyond.values():
        raise InputError(
            f"{origin}: the tokenizer has ids up to {max([widest, *beyond])}, but the embedding "
            f"has only {rows} rows; tokenizer and weights are not of the same model."
        )
    if beyond:
        _take_out(tokenizer, set(beyond.values()))
        names = ", ".join(f"{token!r} ({id_})" for id_, token in beyond.items())
        return [
            f"The embedding has {rows} rows and none for the added {names}: such a text is "
            "tokenised like any other."
        ]
    known = max(tokenizer.get_vocab().values()) + 1
    if known < _NARROW * rows:
        return [
            f"The tokenizer has {known} ids and the embedding {rows} rows. If it is another "
            "model's tokenizer, its texts mean nothing to the model."
        ]
    return []


def _take_out(tokenizer: Any, tokens: set[str]) -> None:
    """Removes added tokens, which the tokenizers library cannot do to one that is there."""
    table = json.loads(tokenizer.backend_tokenizer.to_str())
    table["added_tokens"] = [one for one in table["added_tokens"] if one["content"] not in tokens]
    if tokenizer.pad_token in tokens:
        tokenizer.pad_token = None
    if tokenizer.bos_token in tokens:
        tokenizer.bos_token = None
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(table))  # noqa: SLF001


def check_known(tokenizer: Any, folder: Path) -> None:
    """Refuses an end token that only tokenizer_config.json names.

    transformers gives it the next free id, for which the embedding has no row, or one that
    training never saw.

    Raises:
      InputError: see above.
    """
    token = tokenizer.eos_token
    if token is None:
        return
    spelled = {json.dumps(token), json.dumps(token, ensure_ascii=False)}
    config = folder / "tokenizer_config.json"
    listed = json.loads(config.read_text("utf-8")) if config.is_file() else {}
    decoder = [one.get("content") for one in listed.get("added_tokens_decoder", {}).values()]
    text = (folder / "tokenizer.json").read_text("utf-8")
    if token not in decoder and not any(one in text for one in spelled):
        raise InputError(
            f'{config}: eos_token = "{token}" is no token of tokenizer.json, so the model could '
            "not write it. Name the end token that it was trained with."
        )
