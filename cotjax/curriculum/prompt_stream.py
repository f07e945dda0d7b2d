"""The prompts of a policy stage, bucket by bucket; the student's success opens the next bucket."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cotjax.config import Config
from cotjax.core.curriculum import assign_buckets
from cotjax.curriculum.buckets import bucket_pools
from cotjax.curriculum.difficulty import Difficulty
from cotjax.data.pipeline import prompt_batches
from cotjax.data.sources import Mixture, Records
from cotjax.data.token_cache import TokenCache
from cotjax.errors import InputError
from cotjax.interfaces import Program, Record
from cotjax.student.records import in_order

# A record to its prompt's text; holds no model, as it travels to workers.
PromptFn = Callable[[Record, np.random.Generator], str]
# A bucket's progress to metrics of its steps.
BucketMetrics = Callable[[float], Mapping[str, float]]
# Records to how hard each is, [n].
Measure = Callable[[Sequence[Record]], np.ndarray]


class BucketStream:
    """An iterator over the current bucket's batches, which `report` may move to the next bucket.

    Where it stands (bucket, position in it, successes seen) is its state, so that a resumed run
    advances where an unbroken one did.

    Args:
      buckets: makes the stream of each bucket, easiest first; with `get_state`, `set_state`,
        `close`.
      advance_accuracy: mean success of the last `advance_window` reports that opens the next
        bucket.
      advance_window: reports in that mean; a bucket lasts at least as many.
      advance_after: reports after which the next bucket opens anyway; 0 = never.
      metrics: of each bucket's steps; none without.
    """

    def __init__(
        self,
        buckets: Sequence[Callable[[], Any]],
        *,
        advance_accuracy: float,
        advance_window: int,
        advance_after: int,
        metrics: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self._buckets, self.bucket = buckets, 0
        self._metrics = metrics
        self._accuracy, self._after = advance_accuracy, advance_after
        self._seen: deque[float] = deque(maxlen=advance_window)
        self._reports = 0
        self._stream = buckets[0]()

    @property
    def num_buckets(self) -> int:
        """How many there are."""
        return len(self._buckets)

    @property
    def metrics(self) -> dict[str, float]:
        """Of the current bucket's steps."""
        return dict(self._metrics[self.bucket]) if self._metrics else {}

    def __iter__(self) -> "BucketStream":
        """Itself."""
        return self

    def __next__(self) -> Any:
        """The next batch of the current bucket."""
        return next(self._stream)

    def report(self, success: float) -> bool:
        """Counts a batch's success, 0–1; True if that opened the next bucket."""
        self._seen.append(success)
        self._reports += 1
        full = len(self._seen) == self._seen.maxlen
        mastered = full and float(np.mean(self._seen)) >= self._accuracy
        waited = bool(self._after) and self._reports >= self._after
        if self.bucket + 1 == len(self._buckets) or not (mastered or waited):
            return False
        self._enter(self.bucket + 1)
        return True

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._stream.close()

    def _enter(self, bucket: int) -> None:
        self._stream.close()
        self.bucket, self._reports = bucket, 0
        self._seen.clear()
        self._stream = self._buckets[bucket]()

    def get_state(self) -> dict[str, Any]:
        """Bucket, position and successes, as JSON has them."""
        return {
            "bucket": self.bucket,
            "reports": self._reports,
            "seen": list(self._seen),
            "position": self._stream.get_state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `get_state` stood."""
        self._enter(state["bucket"])
        self._seen.extend(state["seen"])
        self._reports = state["reports"]
        self._stream.set_state(state["position"])


def prompt_stream(
    config: Config,
    tokenizer: Any,
    train: Records,
    prompt: Callable[[float], PromptFn],
    measure: Measure,
    *,
    metrics: BucketMetrics = lambda _: {},
) -> BucketStream:
    """The prompts of a run, bucket by bucket.

    Args:
      config: of the run.
      tokenizer: of the student.
      train: records.
      prompt: a bucket's progress (0 for the first of several, 1 for the last) to its prompts.
      measure: how hard records are; called only if there are several buckets.
      metrics: of the steps of a bucket, by its progress.

    Raises:
      InputError: fewer records than buckets, or buckets of a mixture.
    """
    curriculum, rollout = config.curriculum, config.rollout
    sources = in_buckets(config, train, measure) if curriculum.buckets > 1 else [train]
    tokens = TokenCache(tokenizer)
    several = len(sources) > 1
    progress = [turn / (len(sources) - 1) if several else 1.0 for turn in range(len(sources))]

    def stream(bucket: int) -> Any:
        return prompt_batches(
            sources[bucket],
            prompt(progress[bucket]),
            tokens,
            seed=config.seed + bucket * 2**20,  # every bucket in an order of its own
            batch_size=rollout.prompts,
            max_length=rollout.max_prompt_tokens,
            widths=config.data.prompt_widths,
            workers=config.data.workers,
        )

    return BucketStream(
        [functools.partial(stream, bucket) for bucket in range(len(sources))],
        advance_accuracy=curriculum.advance_accuracy,
        advance_window=curriculum.advance_window,
        advance_after=curriculum.advance_after,
        metrics=[metrics(one) for one in progress],
    )


def order_programs(
    config: Config, train: Records, difficulty: Difficulty, *, some: bool = False
) -> Iterator[Program]:
    """What measuring the order compiles; nothing if there is one bucket.

    Args:
      config: of the run.
      train: records.
      difficulty: measures them.
      some: whether only some of them are measured, which are not known yet.
    """
    if config.curriculum.buckets > 1:
        ordered = in_one_order(config, train)
        records = [ordered[index] for index in range(len(ordered))]
        yield from difficulty.programs(records, some=some)


def in_one_order(config: Config, train: Records) -> Records:
    """What the buckets are made of.

    Raises:
      InputError: fewer records than buckets, or a mixture, which has no order.
    """
    curriculum = config.curriculum
    train = in_order(train, f"curriculum.buckets = {curriculum.buckets}", "curriculum.buckets = 1")
    count = min(curriculum.examples or len(train), len(train))
    if count < curriculum.buckets:
        raise InputError(
            f"curriculum.buckets = {curriculum.buckets}: a bucket would be empty, for there are "
            f"{count} records. Set curriculum.buckets <= {count}."
        )
    return train.part(range(count))


def in_buckets(config: Config, train: Records, measure: Measure) -> list[Records]:
    """What training draws from in each bucket's turn.

    Raises:
      InputError: fewer records than buckets, or a mixture, which has no order.
    """
    curriculum, ordered = config.curriculum, in_one_order(config, train)
    bucket = assign_buckets(
        measure([ordered[index] for index in range(len(ordered))]),
        num_buckets=curriculum.buckets,
        seed=config.seed,
    )
    pools = bucket_pools(bucket, direction=curriculum.direction, pacing=curriculum.pacing)
    now: list[Records] = [ordered.part(pool) for pool in pools]
    if not curriculum.replay:
        return now
    before = [ordered.part(np.concatenate(pools[:turn])) for turn in range(1, len(pools))]
    weights = 1 - curriculum.replay, curriculum.replay
    return now[:1] + [Mixture(pair, weights) for pair in zip(now[1:], before, strict=True)]
