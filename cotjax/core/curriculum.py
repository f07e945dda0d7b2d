"""Curricula over examples (host side, numpy) and over teachers (a function of progress)."""

# Some of JAX's own functions have parameters without a type.
# pyright: reportUnknownMemberType=false

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, Real

Schedule = Literal["step", "linear", "cosine"]
Cause = Literal["", "plateau", "pass_rate"]


def assign_buckets(
    difficulty: Real[np.ndarray, " n"], *, num_buckets: int, seed: int
) -> Int[np.ndarray, " n"]:
    """Sorts examples from easy to hard into contiguous buckets of nearly equal size.

        bucket = ⌊rank · M / n⌋,   rank 0 … n − 1 ascending in difficulty

    Args:
      difficulty: [n] one number per example, greater is harder; any unit.
      num_buckets: M, between 1 and n.
      seed: orders examples of equal difficulty, so that a tie is not broken by file order.

    Returns:
      [n] int64 bucket of each example, 0 the easiest. Sizes differ by at most 1, and no example is
      harder than one in a later bucket. The same seed gives the same buckets.

    Example:
      >>> assign_buckets(np.array([5.0, 1.0, 3.0, 9.0]), num_buckets=2, seed=0)
      array([1, 0, 0, 1])

    Raises:
      ValueError: num_buckets outside 1..n, or a difficulty that is NaN.

    Source: explicit curriculum of CLPD, arXiv:2605.11260; bucket sizes are this project's choice.
    """
    difficulty = np.asarray(difficulty)
    n = len(difficulty)
    if not 1 <= num_buckets <= n:
        raise ValueError(f"num_buckets = {num_buckets}: {n} examples allow 1 to {n} buckets.")
    _refuse_nan(difficulty)
    tie_break = np.random.default_rng(seed).permutation(n)
    order = np.lexsort((tie_break, difficulty))
    bucket = np.empty(n, np.int64)
    bucket[order] = np.arange(n) * num_buckets // n
    return bucket


def rank_fusion(*difficulties: Real[np.ndarray, " n"], k: float = 60) -> Float[np.ndarray, " n"]:
    """Fuses several difficulty signals by rank, whatever their units.

        Σ_signals 1 / (k + rank),   rank 1 = hardest

    Args:
      *difficulties: arrays [n], greater is harder.
      k: damps the first ranks; 60 in the source.

    Returns:
      [n] float64 fused difficulty, greater is harder. Examples that a signal holds for equal share
      their mean rank, so the result does not depend on the order of the examples.

    Example:
      >>> rank_fusion(np.array([1.0, 2.0, 2.0]), np.array([10.0, 30.0, 20.0])).round(5)
      array([0.03175, 0.03265, 0.03239])

    Raises:
      ValueError: no signal, signals of different length, or a NaN.

    Source: Cormack, Clarke and Büttcher 2009, "Reciprocal rank fusion".
    """
    if not difficulties:
        raise ValueError("rank_fusion needs at least one difficulty signal.")
    lengths = {len(signal) for signal in difficulties}
    if len(lengths) > 1:
        raise ValueError(f"the difficulty signals have different lengths: {sorted(lengths)}.")
    return np.sum([1 / (k + _hardest_first(signal)) for signal in difficulties], axis=0)


def teacher_weights(
    progress: float | Float[Array, ""], *, num_teachers: int, kind: Schedule = "step"
) -> Float[Array, " N"]:
    """Weights of the teachers, ordered weak to strong, at a point of training.

        step     one-hot at ⌈progress · N⌉: equal shares of training, at most one teacher in use
        linear   max(0, 1 − d_k),          d_k = |progress · (N − 1) − k|
        cosine   ½ (1 + cos(π d_k)),       d_k cut at 1

    Args:
      progress: share of training done, cut to [0, 1]; may be traced. In bucket m of M, m = 1 … M,
        give m / M, so that bucket m of `step` has teacher ⌈mN/M⌉.
      num_teachers: N ≥ 1.
      kind: `step`, `linear` or `cosine`.

    Returns:
      [N] float32, ≥ 0, sums to 1; at most two neighbours are not exactly 0. `linear` and `cosine`
      go from the weakest teacher alone to the strongest alone.

    Example:
      >>> teacher_weights(0.25, num_teachers=3, kind="linear")
      Array([0.5, 0.5, 0. ], dtype=float32)
      >>> teacher_weights(2 / 3, num_teachers=3)
      Array([0., 1., 0.], dtype=float32)

    Raises:
      ValueError: num_teachers < 1 or an unknown kind.

    Source: implicit curriculum of CLPD, arXiv:2605.11260; the smooth kinds are this project's.
    """
    if num_teachers < 1:
        raise ValueError(f"num_teachers = {num_teachers}: a schedule needs at least 1 teacher.")
    progress = jnp.clip(jnp.asarray(progress, jnp.float32), 0, 1)
    teacher = jnp.arange(num_teachers, dtype=jnp.float32)
    if kind == "step":
        # m/M · N may land a rounding error above an integer and must not jump to the next teacher.
        current = jnp.ceil(progress * num_teachers - 1e-4) - 1
        return (teacher == jnp.maximum(current, 0)).astype(jnp.float32)
    distance = jnp.minimum(jnp.abs(progress * (num_teachers - 1) - teacher), 1)
    if kind == "linear":
        return 1 - distance
    if kind == "cosine":
        return 0.5 * (1 + jnp.cos(jnp.pi * distance))
    raise ValueError(f"kind = {kind!r}: there are 'step', 'linear' and 'cosine'.")


@dataclasses.dataclass(frozen=True)
class HandOver:
    """Where an adaptive schedule stands; a few numbers that a checkpoint keeps.

    Attributes:
      teacher: index of the current teacher, 0 the weakest.
      began: the step at which that teacher began to take over; −1 for the first teacher.
      best: the least held-out loss against that teacher so far, nats.
      stale: measurements since then without progress.
    """

    teacher: int = 0
    began: int = -1
    best: float = math.inf
    stale: int = 0


def handover_weights(
    state: HandOver, step: int, *, num_teachers: int, length: int
) -> Float[np.ndarray, " N"]:
    """Weights of the teachers at a step: the share passes evenly to the one that takes over.

        w_k = min((step − began + 1) / length, 1),   w_{k−1} = 1 − w_k

    Args:
      state: of the schedule.
      step: 0 is the first.
      num_teachers: N.
      length: steps that a hand-over takes; 1 passes everything at once.

    Returns:
      [N] float32, ≥ 0, sums to 1; at most two neighbours are not 0.

    Example:
      >>> handover_weights(HandOver(teacher=1, began=8), 9, num_teachers=3, length=4)
      array([0.5, 0.5, 0. ], dtype=float32)
    """
    weights = np.zeros(num_teachers, np.float32)
    share = 1.0 if state.began < 0 else min((step - state.began + 1) / length, 1.0)
    weights[state.teacher] = share
    if share < 1:
        weights[state.teacher - 1] = 1 - share
    return weights


def observe(
    state: HandOver,
    loss: float,
    pass_rate: float,
    *,
    step: int,
    num_teachers: int,
    length: int,
    patience: int,
    min_progress: float,
    threshold: float,
) -> tuple[HandOver, Cause]:
    """Takes a measurement and decides whether the next teacher takes over from this step on.

    It does if the held-out loss has not fallen below (1 − min_progress) · best for `patience`
    measurements (`plateau`), or if the pass rate is above the threshold (`pass_rate`). The last
    teacher stays, and nothing is decided while a hand-over is going on.

    Args:
      state: of the schedule.
      loss: held-out loss of the student against the current teacher, nats.
      pass_rate: share of held-out problems that the student solves, 0–1.
      step: of the measurement.
      num_teachers: N.
      length: steps that a hand-over takes.
      patience: measurements without progress that are too many.
      min_progress: what counts as progress, a share of the best loss.
      threshold: pass rate above which the next teacher takes over; 1 never does.

    Returns:
      The new state, and the cause of a hand-over that begins now, "" if none does.

    Example:
      >>> settings = dict(num_teachers=2, length=1, patience=1, min_progress=0.0, threshold=1.0)
      >>> state, cause = observe(HandOver(), 0.5, 0.0, step=10, **settings)
      >>> observe(state, 0.5, 0.0, step=20, **settings)
      (HandOver(teacher=1, began=20, best=inf, stale=0), 'plateau')

    Source: the future work of CLPD, arXiv:2605.11260; the rule is this project's.
    """
    if state.teacher == num_teachers - 1 or (state.began >= 0 and step < state.began + length):
        return state, ""
    following = HandOver(teacher=state.teacher + 1, began=step)
    if pass_rate > threshold:
        return following, "pass_rate"
    if loss < (1 - min_progress) * state.best:
        return dataclasses.replace(state, best=loss, stale=0), ""
    if state.stale + 1 >= patience:
        return following, "plateau"
    return dataclasses.replace(state, stale=state.stale + 1), ""


def _hardest_first(signal: Real[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    # Ranks from 1 for the greatest value; equal values share the mean of the ranks they occupy.
    _refuse_nan(signal)
    _, group, size = np.unique(
        -np.asarray(signal, np.float64), return_inverse=True, return_counts=True
    )
    return (np.cumsum(size) - (size - 1) / 2)[group]


def _refuse_nan(difficulty: Real[np.ndarray, " n"]) -> None:
    if np.isnan(difficulty).any():
        first = int(np.flatnonzero(np.isnan(difficulty))[0])
        raise ValueError(f"the difficulty of example {first} is NaN, which has no rank.")
