"""Examples of several lengths into rows of one length: as tight as possible, or in order."""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cotjax.interfaces import TokenBatch

Example = dict[str, np.ndarray]  # tokens, targets, weight, of one length

KEYS = ("tokens", "targets", "weight")
PADDING = -1  # instead of an example


def pack(
    examples: Sequence[dict[str, np.ndarray]], *, length: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Packs whole examples into rows, longest first, each where it leaves the least space.

    Args:
      examples: equal-length `tokens`, `targets`, `weight` of each.
      length: S, tokens a row; no example is longer.
      rng: orders the rows and the examples in a row.

    Returns:
      [R, S] arrays `tokens`, `targets`, `weight`, `segment`, `positions`; see `TokenBatch`.
    """
    sizes = [len(example["tokens"]) for example in examples]
    rows: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (free, row), ascending
    for index in sorted(rng.permutation(len(sizes)).tolist(), key=lambda i: -sizes[i]):
        size = sizes[index]
        place = bisect.bisect_left(space, (size, -1))
        if place == len(space):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = space.pop(place)
        rows[row].append(index)
        if free > size:
            bisect.insort(space, (free - size, row))
    # Rows are filled from the longest examples on, so they are shuffled.
    return _lay([rows[row] for row in rng.permutation(len(rows))], examples, sizes, length)


def _lay(
    rows: list[list[int]],
    examples: Sequence[dict[str, np.ndarray]],
    sizes: list[int],
    length: int,
) -> dict[str, np.ndarray]:
    """Examples, and padding behind each row's last, joined: everything is copied once."""
    index, size, number = [], [], []
    for row in rows:
        index += [*row, PADDING]
        size += [sizes[one] for one in row]
        size.append(length - sum(size[-len(row) :]))
        number += [*range(1, len(row) + 1), 0]
    zeros, count = np.zeros(length, np.int32), np.arange(length, dtype=np.int32)
    flat = {"segment": np.repeat(np.array(number, np.int32), size)}
    flat["positions"] = np.concatenate(
        [(count if one else zeros)[:width] for one, width in zip(number, size, strict=True)]
    )
    for key in KEYS:
        padding = zeros.astype(examples[0][key].dtype)
        flat[key] = np.concatenate(
            [
                padding[:width] if one == PADDING else examples[one][key]
                for one, width in zip(index, size, strict=True)
            ]
        )
    return {key: values.reshape(len(rows), length) for key, values in flat.items()}


@dataclasses.dataclass(frozen=True)
class Span:
    """Where an example lies in a batch of rows: `row`, columns `start` to `stop`."""

    example: int
    row: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class RowLimit:
    """Other rows that have to hold the same examples, each of a size of its own.

    Attributes:
      length: tokens of such a row.
      sizes: tokens of each example there.
    """

    length: int
    sizes: Sequence[int]


def first_fit(free: Sequence[list[int]], sizes: Sequence[int]) -> list[int]:
    """The first row with space, as a list of at most one; it has less space afterwards.

    Args:
      free: space in every row, once for each way in which an example takes some.
      sizes: of an example in each way.
    """
    row = [row for row, space in enumerate(zip(*free, strict=True))
           if all(one >= size for one, size in zip(space, sizes, strict=True))][:1]  # fmt: skip
    for one in row:
        for spaces, size in zip(free, sizes, strict=True):
            spaces[one] -= size
    return row


def pack_in_order(
    examples: Sequence[tuple[int, Example]],
    rows: int,
    length: int,
    *,
    beside: Sequence[RowLimit] = (),
) -> tuple[TokenBatch, list[Span]]:
    """Puts each example into the first row with space for it; those that fit in none are left out.

    Args:
      examples: index and arrays of each.
      rows: B.
      length: S.
      beside: what must have space in the same row too.

    Returns:
      the rows on the host, and where each example lies.
    """
    batch: dict[str, Any] = {key: np.zeros((rows, length), np.int32) for key in _INTEGERS}
    batch["weight"] = np.zeros((rows, length), np.float32)
    free, spans, number = [length] * rows, [], [0] * rows
    others = [[limit.length] * rows for limit in beside]
    for place, (index, example) in enumerate(examples):
        size, more = len(example["tokens"]), [limit.sizes[place] for limit in beside]
        for row in first_fit([free, *others], [size, *more]):
            stop = length - free[row]
            span = Span(index, row, stop - size, stop)
            inside = row, slice(span.start, span.stop)
            number[row] += 1
            for key in ("tokens", "targets", "weight"):
                batch[key][inside] = example[key]
            batch["segment"][inside] = number[row]
            batch["positions"][inside] = np.arange(size)
            spans.append(span)
    return TokenBatch(**batch), spans


_INTEGERS = ("tokens", "targets", "segment", "positions")
