"""When the next teacher takes over: a schedule that looks at the student (host side, numpy)."""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float

Cause = Literal["", "plateau", "pass_rate"]


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
