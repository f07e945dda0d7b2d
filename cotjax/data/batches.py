"""The iterator behind every stage: batches cut from blocks, at a place that a checkpoint can hold.

A block is what one call of the pipeline gives, a function of its number alone. The place in the
stream is (number of the block, rows of it that were used), so it means the same whatever number of
worker processes makes the blocks and whatever number of processes trains on them.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import grain
from absl import flags

from cotjax.data.sources import Records
from cotjax.startup import end_with_parent

AHEAD = 2  # blocks that each worker keeps ready


@dataclasses.dataclass(frozen=True)
class Cutting:
    """How blocks become batches.

    Attributes:
      size: rows a batch takes.
      rows: number of rows of a block.
      cut: rows [start, stop) of a block.
      join: cut pieces to a batch.
    """

    size: int
    rows: Callable[[Any], int]
    cut: Callable[[Any, int, int], Any]
    join: Callable[[list[Any]], Any]


class Batches:
    """Batches for ever, with `get_state` and `set_state`.

    Args:
      source: records.
      blocks: a source to the endless data set of its blocks.
      cutting: blocks to batches.
      workers: processes that make blocks; 0 makes them in a thread of this one.
      place: last step, e.g. to put a batch on devices; done one batch ahead, in a thread.
    """

    def __init__(
        self,
        source: Records,
        blocks: Callable[[Records], grain.MapDataset],
        cutting: Cutting,
        *,
        workers: int = 0,
        place: Callable[[Any], Any] | None = None,
    ) -> None:
        self._source, self._blocks, self._cutting = source, blocks, cutting
        self._workers, self._place = workers, place
        self._executor = concurrent.futures.ThreadPoolExecutor(1) if place else None
        self._ahead: concurrent.futures.Future[Any] | None = None
        self._iterator: Any = None
        self._go_to(0, 0)

    def get_state(self) -> dict[str, int]:
        """The place behind the last batch that was given out, as JSON holds it."""
        block, row = self._given
        return {"block": block, "row": row}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from a place, of this pipeline or of one with other workers."""
        self.close()
        self._go_to(state["block"], state["row"])

    def close(self) -> None:
        """Ends threads and worker processes; `set_state` or the next batch starts others."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        if self._executor is None:
            batch, self._given = self._make()
            return batch
        ahead = self._ahead or self._executor.submit(self._make)
        self._ahead = None  # a batch that failed is not asked for again
        batch, self._given = ahead.result()
        self._ahead = self._executor.submit(self._make)
        return batch

    def _go_to(self, block: int, row: int) -> None:
        self._block: Any = None
        self._index, self._row = block, row
        self._given = block, row

    def _start(self) -> Any:
        blocks = self._blocks(self._source)[self._index :]
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        stream = blocks.to_iter_dataset(read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read them; there are none to parse
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=AHEAD
                ),
                worker_init_fn=functools.partial(_begin_worker, os.getpid()),
            )
        return iter(stream)

    def _make(self) -> tuple[Any, tuple[int, int]]:
        cutting, parts, missing = self._cutting, [], self._cutting.size
        while missing:
            if self._block is None:
                self._iterator = self._iterator or self._start()
                self._block = next(self._iterator)
            rows = cutting.rows(self._block)
            stop = min(self._row + missing, rows)
            parts.append(cutting.cut(self._block, self._row, stop))
            missing -= stop - self._row
            self._row = stop
            if stop == rows:
                self._block, self._row = None, 0
                self._index += 1
        batch = cutting.join(parts)
        if self._place:
            batch = self._place(batch)
        return batch, (self._index, self._row)


def _begin_worker(parent: int, number: int, count: int) -> None:
    """What a worker process of Grain does first."""
    del number, count
    end_with_parent(parent)  # Grain ends its workers when it is closed, and a kill closes nothing
