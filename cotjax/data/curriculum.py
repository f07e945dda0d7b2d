"""Which records a stage of a curriculum draws from: buckets from easy to hard."""

import dataclasses
from typing import Literal

import numpy as np

from cotjax.data.sources import Mixture
from cotjax.errors import InputError
from cotjax.interfaces import Record, Source

Accumulate = Literal["contiguous", "cumulative"]


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a source, by index."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        """Number of records."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        """Record `index` of the subset."""
        return self.source[int(self.indices[index])]


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """A source in buckets; a pipeline draws from one stage of it at a time.

    Attributes:
      source: all records; not a `Mixture`, whose parts have no order among each other.
      buckets: [n] the bucket of each record, 0 … M − 1 (`core.assign_buckets`).
      mode: stage m draws from bucket m alone, or from buckets 0 … m together.
      replay: share of a contiguous stage's records that come from earlier buckets, 0 to below 1.
    """

    source: Source
    buckets: np.ndarray
    mode: Accumulate = "contiguous"
    replay: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what would leave a stage without records.

        Raises:
          InputError: buckets for another number of records, an empty one, or a share that is none.
        """
        sizes = np.bincount(np.asarray(self.buckets, np.int64))
        if len(self.buckets) != len(self.source) or not sizes.all():
            raise InputError(
                f"curriculum: {len(self.source)} records in buckets of {sizes.tolist()}. Each "
                "record needs a bucket and each bucket a record; set fewer buckets."
            )
        if not 0 <= self.replay < 1:
            raise InputError(f"curriculum: replay = {self.replay}: set a share in 0 <= share < 1.")

    def __len__(self) -> int:
        """Number of stages, M."""
        return int(self.buckets.max()) + 1

    def stage(self, bucket: int) -> Source | Mixture:
        """What stage `bucket` draws from.

        Raises:
          InputError: there is no such bucket.
        """
        if not 0 <= bucket < len(self):
            raise InputError(f"curriculum: bucket {bucket}: there are 0 to {len(self) - 1}.")
        cumulative = self.mode == "cumulative"
        own = self.buckets <= bucket if cumulative else self.buckets == bucket
        now = Subset(self.source, np.flatnonzero(own))
        if cumulative or not bucket or not self.replay:
            return now
        before = Subset(self.source, np.flatnonzero(self.buckets < bucket))
        return Mixture((now, before), (1 - self.replay, self.replay))
