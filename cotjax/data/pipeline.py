"""Grain pipelines: the only place where examples are shuffled, repeated, packed and batched.

Both iterators have `get_state` / `set_state`, so a checkpoint can hold where they stand.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from grain.experimental import FirstFitPackIterDataset

from cotjax.interfaces import PromptBatch, Record, Source, TokenBatch


def _stream(source: Source, seed: int) -> grain.MapDataset:
    """The source for ever, each epoch in another order."""
    records: Any = source  # Grain asks for a parameter called `index`, Python's lists have none
    return grain.MapDataset.source(records).seed(seed).shuffle().repeat()


def supervised_batches(
    source: Source,
    encode: Callable[[Record, np.random.Generator], dict[str, np.ndarray]],
    *,
    seed: int,
    batch_size: int,
    sequence_length: int,
) -> grain.DatasetIterator:
    """Rows of packed examples, for ever.

    Args:
      source: records.
      encode: a record to `tokens`, `targets`, `weight` arrays of one length. Its generator depends
        on seed, epoch and place in the epoch alone.
      seed: of the order.
      batch_size: B, rows.
      sequence_length: S, tokens a row.

    Returns:
      an iterator of `TokenBatch` [B, S].
    """
    examples = _stream(source, seed).random_map(encode).to_iter_dataset()
    packed = FirstFitPackIterDataset(
        examples,
        length_struct={key: sequence_length for key in ("tokens", "targets", "weight")},
        num_packing_bins=batch_size,
        shuffle_bins=False,
    )
    return iter(packed.batch(batch_size, drop_remainder=True).map(_to_token_batch))


def _to_token_batch(packed: dict[str, Any]) -> TokenBatch:
    return TokenBatch(
        tokens=packed["tokens"],
        targets=packed["targets"],
        weight=packed["weight"],
        segment=packed["tokens_segment_ids"],
        positions=packed["tokens_positions"],
    )


def prompt_batches(
    source: Source,
    prompt: Callable[[Record, np.random.Generator], str],
    encode: Callable[[list[int], list[Record], list[str]], PromptBatch],
    *,
    seed: int,
    batch_size: int,
) -> grain.DatasetIterator:
    """Prompts with their records, for ever.

    Args:
      source: records.
      prompt: a record to its prompt's text. Its generator depends on seed, epoch and place in the
        epoch alone.
      encode: stream indices, records and texts of one batch to a `PromptBatch`.
      seed: of the order.
      batch_size: B, prompts.

    Returns:
      an iterator of (PromptBatch, list of B records).
    """

    def draw(record: Record, rng: np.random.Generator) -> tuple[Record, str]:
        return record, prompt(record, rng)

    def gather(
        numbered: Sequence[tuple[int, tuple[Record, str]]],
    ) -> tuple[PromptBatch, list[Record]]:
        ids = [i for i, _ in numbered]
        records = [record for _, (record, _) in numbered]
        return encode(ids, records, [text for _, (_, text) in numbered]), records

    stream = _stream(source, seed).random_map(draw).map_with_index(lambda i, drawn: (i, drawn))
    batches = stream.batch(batch_size, drop_remainder=True, batch_fn=gather)
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
