"""Digests of what a step took: a line of digests.jsonl, with which `cotjax replay` compares.

A run writes some kilobytes a step, so that a step that is computed again can be compared with it to
the token: hashes of the arrays of the batch, of every row, prompt and completion, and the rewards.

    sequence   "<CRC-32>.<stride>.<marks>": of the tokens, and after every `stride` of them one
               character of the CRC so far, so that the first token that differs is found
"""

import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cotjax.interfaces import Record, SampledGroups, Step, TokenBatch

MARKS = 64  # of a sequence at most
LARGEST = 2**26  # bytes of an array that are hashed; of a larger one its shape is
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
_FIELDS = ("id", "question", "answer", "steps", "thinking", "teacher", "target")


def digests(work: Step) -> dict[str, Any]:
    """The digests of a step.

    Args:
      work: what the stage gave.

    Returns:
      of JSON's types: `batch`, a hash of its arrays by their names; `rows`, a sequence for each row
      of tokens; where something was sampled also `records`, (id, hash) of each; `prompts`, a
      sequence each; `completions`, B lists of G sequences; `rewards`, B lists of G. What lies on
      the devices of several processes has no digest.
    """
    data = work.batch if work.data is None else work.data
    found: dict[str, Any] = {"batch": _arrays(data)}
    if rows := list(_rows(data)):
        found["rows"] = rows
    return found if work.groups is None else found | _of_groups(work.groups)


def _of_groups(groups: SampledGroups) -> dict[str, Any]:
    prompts, rollout = groups.prompts, groups.rollout
    width, longest = prompts.tokens.shape[-1], rollout.tokens.shape[-1]
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    return {
        "records": [[record.id, record_digest(record)] for record in groups.records],
        "prompts": [
            sequence(np.asarray(row)[np.asarray(seen)], width)
            for row, seen in zip(prompts.tokens, prompts.mask, strict=True)
        ],
        "completions": [
            [sequence(row[seen], longest) for row, seen in zip(*pair, strict=True)]
            for pair in zip(tokens, mask, strict=True)
        ],
        "rewards": np.asarray(groups.reward).tolist(),
    }


def record_digest(record: Record) -> str:
    """8 hexadecimal digits of a record's text."""
    text = repr([getattr(record, name, None) for name in _FIELDS])
    return f"{zlib.crc32(text.encode('utf-8', 'backslashreplace')):08x}"


def sequence(tokens: np.ndarray, longest: int) -> str:
    """The digest of a sequence of tokens, see above.

    Args:
      tokens: [T] ids.
      longest: tokens that such a sequence may have; it decides the stride.

    Example:
      >>> sequence(np.array([5, 6, 7]), 64), sequence(np.array([5, 6, 8]), 64)
      ('b8ce8041.1.uRB', 'e0ad9017.1.uRX')
    """
    stride, crc, marks = max(-(-longest // MARKS), 1), 0, ""
    ids = np.ascontiguousarray(tokens, np.int32)
    for start in range(0, len(ids), stride):
        crc = zlib.crc32(ids[start : start + stride].tobytes(), crc)
        marks += _DIGITS[crc % len(_DIGITS)]
    return f"{crc:08x}.{stride}.{marks}"


def first_difference(one: str, other: str) -> tuple[int, int] | None:
    """Between which tokens two sequences begin to differ; None if they are equal.

    Args:
      one: a digest of `sequence`.
      other: another one.

    Returns:
      the first and the last token that may be the first to differ, from 0; with a stride of 1 these
      are the same, but for one case in 64, where it is the one before.

    Example:
      >>> first_difference("b8ce8041.1.uRB", "e0ad9017.1.uRX")
      (2, 2)
    """
    if one == other:
        return None
    (_, stride, marks), (_, width, others) = one.split("."), other.split(".")
    if stride != width:
        return 0, max(len(marks) * int(stride), len(others) * int(width)) - 1
    pairs = itertools.zip_longest(marks, others)
    place = next((place for place, (a, b) in enumerate(pairs) if a != b), len(marks) - 1)
    return place * int(stride), (place + 1) * int(stride) - 1


def _arrays(data: Any) -> dict[str, str]:
    """12 hexadecimal digits of all arrays of each name, in their order."""
    hashes: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        name = next((str(one) for key in reversed(path) if (one := _name(key))), "values")
        if (content := _content(leaf)) is not None:
            hashes.setdefault(name, hashlib.sha256()).update(content)
    return {name: one.hexdigest()[:12] for name, one in hashes.items()}


def _name(key: Any) -> Any:
    return getattr(key, "name", None) or getattr(key, "key", None)


def _content(leaf: Any) -> bytes | None:
    """Shape, type and bytes of an array; None if this process does not hold it whole."""
    if not isinstance(leaf, np.ndarray | jax.Array):
        return repr(leaf).encode()
    if not _is_here(leaf):
        return None
    leaf = numbers(leaf)
    described = f"{leaf.dtype}{list(leaf.shape)}".encode()
    if leaf.nbytes > LARGEST:
        return described
    return described + np.ascontiguousarray(leaf).tobytes()


def numbers(leaf: Any) -> Any:
    """An array, or the numbers of a random key."""
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _is_here(leaf: Any) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _rows(data: Any) -> Iterator[str]:
    """A sequence for each row of tokens: of its ids, then of all else that it has."""
    for batch in token_batches(data):
        if all(map(_is_here, jax.tree.leaves(batch))):
            fields = batch.targets, batch.weight, batch.segment, batch.positions
            tokens, others = np.asarray(batch.tokens), [np.asarray(one) for one in fields]
            for place, row in enumerate(tokens):
                rest = b"".join(np.ascontiguousarray(one[place]).tobytes() for one in others)
                ids, stride, marks = sequence(row, len(row)).split(".")
                yield f"{zlib.crc32(rest, int(ids, 16)):08x}.{stride}.{marks}"


def token_batches(data: Any) -> Sequence[TokenBatch]:
    """The rows of tokens in what a stage gives for a step."""
    leaves = jax.tree.leaves(data, is_leaf=lambda one: isinstance(one, TokenBatch))
    return [leaf for leaf in leaves if isinstance(leaf, TokenBatch)]
