"""Examples of several lengths into rows of one length."""

import bisect
from collections.abc import Sequence

import numpy as np

KEYS = ("tokens", "targets", "weight")


def pack(
    examples: Sequence[dict[str, np.ndarray]], *, length: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Packs whole examples into rows, longest first, each where it leaves the least room.

    Args:
      examples: equal-length `tokens`, `targets`, `weight` of each.
      length: S, tokens a row; no example is longer.
      rng: orders the rows and the examples in a row.

    Returns:
      [R, S] arrays `tokens`, `targets`, `weight`, `segment`, `positions`; see `TokenBatch`.
    """
    sizes = [len(example["tokens"]) for example in examples]
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, row), ascending
    for index in sorted(rng.permutation(len(sizes)).tolist(), key=lambda i: -sizes[i]):
        size = sizes[index]
        place = bisect.bisect_left(room, (size, -1))
        if place == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(place)
        rows[row].append(index)
        if free > size:
            bisect.insort(room, (free - size, row))
    # Rows are filled from the longest examples on, so their order must not tell.
    return _lay([rows[row] for row in rng.permutation(len(rows))], examples, sizes, length)


def _lay(
    rows: list[list[int]],
    examples: Sequence[dict[str, np.ndarray]],
    sizes: list[int],
    length: int,
) -> dict[str, np.ndarray]:
    order = np.array([index for row in rows for index in row])
    size = np.array(sizes)[order]
    counts = np.array([len(row) for row in rows])
    first = np.cumsum(counts) - counts  # each row's first example
    before = np.cumsum(size) - size
    in_row = before - np.repeat(before[first], counts)
    number = np.arange(len(order)) - np.repeat(first, counts)
    start = np.repeat(np.arange(len(rows)), counts) * length + in_row
    offset = np.arange(size.sum()) - np.repeat(before, size)
    where = np.repeat(start, size) + offset
    out = {}
    values = {key: np.concatenate([examples[index][key] for index in order]) for key in KEYS}
    values |= {"segment": np.repeat(number + 1, size).astype(np.int32)}
    values |= {"positions": offset.astype(np.int32)}
    for key, value in values.items():
        flat = np.zeros(len(rows) * length, value.dtype)
        flat[where] = value
        out[key] = flat.reshape(len(rows), length)
    return out
