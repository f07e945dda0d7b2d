"""Grain pipelines: the only place where examples are shuffled, repeated, packed and batched.

What comes out is a function of seed, epoch and place in the epoch; see `Batches` for how it is
resumed, sharded and made ahead of time.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from cotjax.data.batches import Batches, Cutting
from cotjax.data.draws import Draws, draws
from cotjax.data.encode import Tokenizer, pad_prompts
from cotjax.data.packing import pack
from cotjax.data.sources import Records
from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch, Record, TokenBatch

EXAMPLES_PACKED = 512  # together; more fill rows better and take longer to begin
ALL = slice(None)


def _stream(source: Records, seed: int) -> grain.MapDataset:
    """The numbers of the records, for ever, each epoch in another order."""
    if len(source.parts) > 1:
        sizes = [len(one) for one, _ in source.parts]
        streams = [
            grain.MapDataset.range(stop - size, stop).seed(seed + number).shuffle().repeat()
            for number, (size, stop) in enumerate(
                zip(sizes, np.cumsum(sizes).tolist(), strict=True)
            )
        ]
        return grain.MapDataset.mix(streams, [weight for _, weight in source.parts]).seed(seed)
    return grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()


def _numbers(source: Records, seed: int, size: int) -> grain.MapDataset:
    """Lists of the numbers of `size` records, for ever, each epoch in another order."""
    if len(source.parts) > 1:
        return _stream(source, seed).batch(size, drop_remainder=True, batch_fn=list)
    blocks: Any = _Blocks(len(source), size, seed)  # Grain asks for a parameter called `index`
    return grain.MapDataset.source(blocks).seed(seed)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """As `_stream` in blocks, without what Grain does for each element: that is half of all work.

    Attributes:
      records: how many there are.
      size: of a block.
      seed: of the order.
    """

    records: int
    size: int
    seed: int

    def __len__(self) -> int:
        return sys.maxsize // self.size

    def __getitem__(self, block: int) -> list[int]:
        epoch, place = np.divmod(
            np.arange(block * self.size, (block + 1) * self.size), self.records
        )
        parts = [
            _permutation(self.records, self.seed, one)[place[epoch == one]]
            for one in range(epoch[0], epoch[-1] + 1)
        ]
        return np.concatenate(parts).tolist()


@functools.lru_cache(4)
def _permutation(records: int, seed: int, epoch: int) -> np.ndarray:
    # The order is that of `permutation(records)`, in half of its memory.
    numbers = np.arange(records, dtype=np.int32 if records < 2**31 else np.int64)
    return np.random.default_rng((seed, epoch)).permutation(numbers)


def supervised_batches(
    source: Records,
    encode: Callable[[Record, Draws], dict[str, np.ndarray]],
    *,
    seed: int,
    batch_size: int,
    sequence_length: int,
    rows: np.ndarray | slice = ALL,
    workers: int = 0,
    place: Callable[[TokenBatch], Any] | None = None,
) -> Batches:
    """Rows of packed examples, for ever.

    Args:
      source: records, or a mixture of them.
      encode: a record to `tokens`, `targets`, `weight` arrays of one length. What it draws depends
        on seed, epoch and place in the epoch alone. With workers it is sent to other processes, so
        it should hold no model.
      seed: of the order, and of the generators.
      batch_size: B, rows.
      sequence_length: S, tokens a row.
      rows: those of each batch that this process takes. Processes that divide the rows among them
        lose none and take none twice; however many there are, the batches and the place in the
        stream are the same, for each of them makes every block.
      workers: processes that encode and pack.
      place: what is done with a batch one step ahead, e.g. putting it on devices.

    Returns:
      an iterator of `TokenBatch` [B, S], or of what `place` makes of it.
    """

    def blocks(part: Records) -> grain.MapDataset:
        size = min(EXAMPLES_PACKED, len(part))
        return _numbers(part, seed, size).random_map(_Pack(part, encode, sequence_length))

    cutting = Cutting(
        batch_size,
        rows=lambda block: len(block["tokens"]),
        cut=lambda block, start, stop: {key: x[start:stop] for key, x in block.items()},
        join=lambda parts: _to_token_batch(parts, rows),
    )
    return Batches(source, blocks, cutting, workers=workers, place=place)


@dataclasses.dataclass(frozen=True)
class _Pack:
    """The numbers of some records to rows."""

    source: Records
    encode: Callable[[Record, Draws], dict[str, np.ndarray]]
    length: int

    def __call__(self, numbers: list[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        each = zip(numbers, draws(rng, len(numbers)), strict=True)
        examples = [self.encode(self.source[number], drawn) for number, drawn in each]
        return pack(examples, length=self.length, rng=rng)


def _to_token_batch(parts: list[dict[str, np.ndarray]], rows: np.ndarray | slice) -> TokenBatch:
    joined: Any = {key: np.concatenate([part[key] for part in parts])[rows] for key in parts[0]}
    return TokenBatch(**joined)


def prompt_batches(
    source: Records,
    prompt: Callable[[Record, np.random.Generator], str],
    tokenizer: Tokenizer,
    *,
    seed: int,
    batch_size: int,
    max_length: int,
    widths: int = 1,
    workers: int = 0,
) -> Batches:
    """Prompts with their records, for ever.

    The prompts of a batch are a random draw, whatever their lengths: a batch of like lengths would
    be of like difficulty. With several widths a batch is as wide as its longest prompt needs, and
    so are the micro-batches of its groups; what compiles for a width does so `widths` times at
    most.

    Args:
      source: records, or a mixture of them.
      prompt: a record to its prompt's text. Its generator depends on seed, epoch and place in the
        epoch alone.
      tokenizer: text to ids.
      seed: of the order, and of the generators.
      batch_size: B, prompts.
      max_length: P, tokens; a longer prompt is an error.
      widths: P is one of `widths` lengths, equally far apart up to `max_length`.
      workers: processes that tokenise.

    Returns:
      an iterator of (PromptBatch [B, P], list of B records).
    """
    pad = _Pad(tokenizer, prompt_widths(max_length, widths))

    def draw(record: Record, rng: np.random.Generator) -> tuple[Record, str]:
        return record, prompt(record, rng)

    def blocks(part: Records) -> grain.MapDataset:
        records = _stream(part, seed).map(part.__getitem__)
        stream = records.random_map(draw).map_with_index(lambda i, x: (i, *x))
        return stream.batch(batch_size, drop_remainder=True, batch_fn=list).map(pad)

    cutting = Cutting(
        1,
        rows=lambda block: 1,
        cut=lambda block, start, stop: block,
        join=lambda parts: parts[0],
    )
    return Batches(source, blocks, cutting, workers=workers)


def prompt_widths(max_length: int, count: int) -> tuple[int, ...]:
    """`count` prompt lengths up to the longest, in tokens.

    Example:
      >>> prompt_widths(80, 3)
      (27, 54, 80)

    Raises:
      InputError: more widths than tokens.
    """
    if count > max_length:
        raise InputError(
            f"data.prompt_widths = {count}: more than rollout.max_prompt_tokens = {max_length}. "
            f"Set data.prompt_widths <= {max_length}."
        )
    return tuple(-(-max_length * k // count) for k in range(1, count + 1))


@dataclasses.dataclass(frozen=True)
class _Pad:
    """Texts to a padded batch."""

    tokenizer: Tokenizer
    widths: tuple[int, ...]

    def __call__(
        self, drawn: Sequence[tuple[int, Record, str]]
    ) -> tuple[PromptBatch, list[Record]]:
        rows = [self.tokenizer.encode(text, add_special_tokens=False) for _, _, text in drawn]
        longest = max(len(row) for row in rows)
        width = next((w for w in self.widths if w >= longest), self.widths[-1])
        ids, records = [one[0] for one in drawn], [one[1] for one in drawn]
        names = [record.id for record in records]
        pad_id = self.tokenizer.pad_token_id
        return pad_prompts(rows, ids, width=width, pad_id=pad_id, names=names), records
