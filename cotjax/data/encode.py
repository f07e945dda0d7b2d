"""Text to token rows: supervised examples with their loss weight, and left-padded prompts.

A supervised example, prompt tokens p, target tokens t, and the end token e:

    tokens   p1 p2 p3 t1 t2
    targets  p2 p3 t1 t2 e
    weight   0  0  1  1  1
"""

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch


class Tokenizer(Protocol):
    """What this package needs of a tokenizer; transformers' fast tokenizers have it."""

    pad_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """Text to ids, a list or an array [n]."""
        ...


def encode_supervised(
    tokenizer: Tokenizer, prompt: str, target: str, *, eos_id: int, max_length: int, name: str
) -> dict[str, np.ndarray]:
    """One example as equal-length arrays; the loss falls on the target and its EOS only.

    Prompt and target are tokenised apart, because at sampling time the prompt is alone.

    Args:
      tokenizer: text to ids.
      prompt: what the student is given.
      target: what it should write.
      eos_id: ends the target.
      max_length: longest row, tokens.
      name: the record's id, for the error.

    Returns:
      `tokens` and `targets` [S] int32, `weight` [S] float32.

    Raises:
      InputError: the example is longer than `max_length`.
    """
    return join_supervised(
        np.asarray(tokenizer.encode(prompt, add_special_tokens=False), np.int32),
        np.asarray(tokenizer.encode(target, add_special_tokens=False), np.int32),
        eos_id=eos_id,
        max_length=max_length,
        name=name,
    )


def join_supervised(
    before: np.ndarray, after: np.ndarray, *, eos_id: int, max_length: int, name: str
) -> dict[str, np.ndarray]:
    """`encode_supervised` of a prompt's and a target's ids; its arrays are not to be written to."""
    row = np.concatenate((before, after, _end(eos_id)))
    size = len(row) - 1
    if size > max_length:
        raise InputError(
            f"{name}: the example has {size} tokens, the row {max_length}. "
            f"Set batch.sequence_length >= {size} or remove the record."
        )
    reach = 1 << size.bit_length()  # few lengths, each at least the row's
    weight = _weights(reach)[reach - max(len(before) - 1, 0) :][:size]
    return {"tokens": row[:-1], "targets": row[1:], "weight": weight}


@functools.cache
def _end(eos_id: int) -> np.ndarray:
    return np.array((eos_id,), np.int32)


@functools.cache
def _weights(length: int) -> np.ndarray:
    """0 `length` times, then 1 as often; an example's weight is a part of it."""
    return np.repeat(np.array((0, 1), np.float32), length)


def encode_prompts(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    ids: Sequence[int],
    *,
    max_length: int,
    names: Sequence[str],
    key: str = "rollout.max_prompt_tokens",
) -> PromptBatch:
    """Prompts as one left-padded batch.

    Args:
      tokenizer: text to ids.
      prompts: B texts.
      ids: B integers that decide the random numbers of each prompt's completions.
      max_length: P, tokens.
      names: B record ids, for the error.
      key: setting behind `max_length`, for the error.

    Raises:
      InputError: a prompt is longer than `max_length`.
    """
    rows = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
    pad_id = tokenizer.pad_token_id
    return pad_prompts(rows, ids, width=max_length, pad_id=pad_id, names=names, key=key)


def pad_prompts(
    rows: Sequence[Sequence[int]],
    ids: Sequence[int],
    *,
    width: int,
    pad_id: int,
    names: Sequence[str],
    key: str = "rollout.max_prompt_tokens",
) -> PromptBatch:
    """Rows of ids as one left-padded batch of a width; see `encode_prompts`."""
    tokens = np.full((len(rows), width), pad_id, np.int32)
    mask = np.zeros((len(rows), width), bool)
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        if len(row) > width:
            raise InputError(
                f"{name}: the prompt has {len(row)} tokens, the limit is {width}. "
                f"Set {key} >= {len(row)} or remove the record."
            )
        tokens[index, width - len(row) :] = row
        mask[index, width - len(row) :] = True
    host: Any = (tokens, mask, np.asarray(ids, np.int32))
    return PromptBatch(*host)
