"""The iterator behind every stage: batches cut from blocks, at a place that a checkpoint can hold.

A block is what one call of the pipeline gives, a function of its number alone. The place in the
stream is (number of the block, rows of it that were used), so it means the same whatever number of
worker processes makes the blocks and whatever number of processes trains on them.
"""

import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any

import grain
from absl import flags

from cotjax.data.curriculum import Curriculum
from cotjax.data.sources import Mixture
from cotjax.errors import InputError
from cotjax.interfaces import Source

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
      source: records, or a curriculum of them, which begins with bucket 0.
      blocks: a source to the endless data set of its blocks.
      cutting: blocks to batches.
      workers: processes that make blocks; 0 makes them in a thread of this one.
      place: last step, e.g. to put a batch on devices; done one batch ahead, in a thread.
    """

    def __init__(
        self,
        source: Source | Mixture | Curriculum,
        blocks: Callable[[Any], grain.MapDataset],
        cutting: Cutting,
        *,
        workers: int = 0,
        place: Callable[[Any], Any] | None = None,
    ) -> None:
        self._source, self._blocks, self._cutting = source, blocks, cutting
        self._workers, self._place = workers, place
        self._bucket = 0
        self._places: dict[str, list[int]] = {}
        self._executor = concurrent.futures.ThreadPoolExecutor(1) if place else None
        self._ahead: concurrent.futures.Future[Any] | None = None
        self._iterator: Any = None
        self._open()

    @property
    def bucket(self) -> int:
        """The bucket of the curriculum that batches come from."""
        return self._bucket

    @property
    def num_buckets(self) -> int:
        """Buckets of the curriculum; 1 without one."""
        return len(self._source) if isinstance(self._source, Curriculum) else 1

    def advance(self, bucket: int) -> None:
        """Goes on with another bucket, where it was left or at its beginning.

        Raises:
          InputError: there is no such bucket.
        """
        if not 0 <= bucket < self.num_buckets:
            raise InputError(f"curriculum: bucket {bucket}: there are 0 to {self.num_buckets - 1}.")
        self.set_state(self.get_state() | {"bucket": bucket})

    def get_state(self) -> dict[str, Any]:
        """The place behind the last batch that was given out, as JSON holds it."""
        bucket, places, here = self._given
        return {"bucket": bucket, "places": places | {str(bucket): here}}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a place, of this pipeline or of one with other workers."""
        self.close()
        self._bucket = state["bucket"]
        self._places = {bucket: list(place) for bucket, place in state["places"].items()}
        self._open()

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

    def _open(self) -> None:
        self._block: Any = None
        self._index, self._row = self._places.get(str(self._bucket), [0, 0])
        self._given = (self._bucket, self._places, [self._index, self._row])

    def _start(self) -> Any:
        source = self._source
        if isinstance(source, Curriculum):
            source = source.stage(self._bucket)
        blocks = self._blocks(source)[self._index :]
        read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        stream = blocks.to_iter_dataset(read)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read them; there are none to parse
                flags.FLAGS.mark_as_parsed()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=AHEAD
                )
            )
        return iter(stream)

    def _make(self) -> tuple[Any, tuple[int, dict[str, list[int]], list[int]]]:
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
        return batch, (self._bucket, self._places, [self._index, self._row])
