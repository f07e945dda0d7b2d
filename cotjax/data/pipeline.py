"""Grain pipelines: the only place where examples are shuffled, repeated, packed and batched.

What comes out is a function of seed, epoch and place in the epoch; see `Batches` for how it is
resumed, sharded and made ahead of time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from cotjax.data.batches import Batches, Cutting
from cotjax.data.curriculum import Curriculum
from cotjax.data.encode import Tokenizer, pad_prompts
from cotjax.data.packing import pack
from cotjax.data.sources import Mixture
from cotjax.errors import InputError
from cotjax.interfaces import PromptBatch, Record, Source, TokenBatch

EXAMPLES_PACKED = 512  # together; more fill rows better and take longer to begin
BATCHES_SORTED = 8  # whose prompts are dealt out by length, where there are several widths

Records = Source | Mixture | Curriculum


def _stream(source: Source | Mixture, seed: int) -> grain.MapDataset:
    """The source for ever, each epoch in another order."""
    if isinstance(source, Mixture):
        streams = [_stream(one, seed + number) for number, one in enumerate(source.sources)]
        return grain.MapDataset.mix(streams, source.weights).seed(seed)
    records: Any = source  # Grain asks for a parameter called `index`, Python's lists have none
    return grain.MapDataset.source(records).seed(seed).shuffle().repeat()


def supervised_batches(
    source: Records,
    encode: Callable[[Record, np.random.Generator], dict[str, np.ndarray]],
    *,
    seed: int,
    batch_size: int,
    sequence_length: int,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    place: Callable[[TokenBatch], Any] | None = None,
) -> Batches:
    """Rows of packed examples, for ever.

    Args:
      source: records, a mixture, or a curriculum.
      encode: a record to `tokens`, `targets`, `weight` arrays of one length. Its generator depends
        on seed, epoch and place in the epoch alone. With workers it is sent to other processes, so
        it should hold no model.
      seed: of the order, and of the generators.
      batch_size: B, rows.
      sequence_length: S, tokens a row.
      shard: (index, count) of this process, see `Batches`.
      workers: processes that encode and pack.
      place: what is done with a batch one step ahead, e.g. putting it on devices.

    Returns:
      an iterator of `TokenBatch` [B, S], or of what `place` makes of it.
    """

    def blocks(part: Source | Mixture) -> grain.MapDataset:
        size = min(EXAMPLES_PACKED, len(part))
        stream = _stream(part, seed).random_map(encode)
        together = stream.batch(size, drop_remainder=True, batch_fn=list)
        return together.random_map(_Pack(sequence_length))

    cutting = Cutting(
        batch_size,
        rows=lambda block: len(block["tokens"]),
        cut=lambda block, start, stop: {key: x[start:stop] for key, x in block.items()},
        join=_to_token_batch,
    )
    return Batches(source, blocks, cutting, shard=shard, workers=workers, place=place)


@dataclasses.dataclass(frozen=True)
class _Pack:
    length: int

    def __call__(self, examples: list[Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return pack(examples, length=self.length, rng=rng)


def _to_token_batch(parts: list[dict[str, np.ndarray]]) -> TokenBatch:
    joined: Any = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
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
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> Batches:
    """Prompts with their records, for ever.

    With several widths, the prompts of some batches are dealt out by length, and each batch is as
    wide as its longest prompt needs; what compiles for a width does so `widths` times at most.

    Args:
      source: records, a mixture, or a curriculum.
      prompt: a record to its prompt's text. Its generator depends on seed, epoch and place in the
        epoch alone.
      tokenizer: text to ids.
      seed: of the order, and of the generators.
      batch_size: B, prompts.
      max_length: P, tokens; a longer prompt is an error.
      widths: P is one of `widths` lengths, equally far apart up to `max_length`.
      shard: (index, count) of this process, see `Batches`.
      workers: processes that tokenise.

    Returns:
      an iterator of (PromptBatch [B, P], list of B records).
    """
    pad = _Pad(tokenizer, batch_size, prompt_widths(max_length, widths))

    def draw(record: Record, rng: np.random.Generator) -> tuple[Record, str]:
        return record, prompt(record, rng)

    def blocks(part: Source | Mixture) -> grain.MapDataset:
        stream = _stream(part, seed).random_map(draw).map_with_index(lambda i, x: (i, *x))
        size = batch_size * (1 if widths == 1 else BATCHES_SORTED)
        return stream.batch(size, drop_remainder=True, batch_fn=list).random_map(pad)

    cutting = Cutting(
        1,
        rows=len,
        cut=lambda block, start, stop: block[start:stop],
        join=lambda parts: parts[0][0],
    )
    return Batches(source, blocks, cutting, shard=shard, workers=workers)


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
    """Texts to padded batches, like lengths together."""

    tokenizer: Tokenizer
    batch_size: int
    widths: tuple[int, ...]

    def __call__(
        self, drawn: Sequence[tuple[int, Record, str]], rng: np.random.Generator
    ) -> list[tuple[PromptBatch, list[Record]]]:
        rows = [self.tokenizer.encode(text, add_special_tokens=False) for _, _, text in drawn]
        order = np.arange(len(rows))
        if len(self.widths) > 1:
            order = np.argsort([len(row) for row in rows], kind="stable")
        groups = order.reshape(-1, self.batch_size)
        if len(groups) > 1:
            groups = groups[rng.permutation(len(groups))]
        return [self._batch([(*drawn[i], rows[i]) for i in group]) for group in groups.tolist()]

    def _batch(self, group: Sequence[Any]) -> tuple[PromptBatch, list[Record]]:
        ids, records, _, rows = zip(*group, strict=True)
        longest = max(len(row) for row in rows)
        width = next((w for w in self.widths if w >= longest), self.widths[-1])
        names = [record.id for record in records]
        pad_id = self.tokenizer.pad_token_id
        batch = pad_prompts(rows, ids, width=width, pad_id=pad_id, names=names)
        return batch, list(records)
