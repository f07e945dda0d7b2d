"""The step of a bundle, computed again, beside what the bundle holds."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cotjax.run.compare import Compared, is_time
from cotjax.training.bundle import Bundle
from cotjax.training.digests import numbers
from cotjax.training.finite import named_leaves
from cotjax.training.metrics import plain_number


def compare_batch(bundle: Bundle, batch: Any) -> Compared:
    """Whether a batch is the bundle's, bit for bit.

    Args:
      bundle: of the step.
      batch: the step's, made again.

    Raises:
      InputError: it has other arrays, or of another shape.
    """
    name = "bundle's batch"
    bundle.fill(batch)  # of the same form, or an error
    leaves = named_leaves(batch)
    for array, there in bundle.arrays.items():
        here = np.asarray(numbers(leaves[array]))
        if here.tobytes() != there.tobytes():
            return Compared(name, "different", f"{array}: {_first(there, here)}")
    left = len(bundle.about) - len(bundle.arrays)
    bad = {one: about["not_finite"] for one, about in bundle.about.items() if about["not_finite"]}
    told = f"{len(bundle.arrays)} arrays"
    told += f", {left} larger ones are not in it" if left else ""
    told += "".join(f"; {one} holds {count} that are not finite" for one, count in bad.items())
    return Compared(name, "equal", told)


def compare_metrics(bundle: Bundle, metrics: Mapping[str, Any]) -> Compared:
    """Whether a step's numbers are the bundle's.

    Args:
      bundle: of the step.
      metrics: of the step computed again; what is not finite is None.
    """
    then = {name: value for name, value in bundle.metrics.items() if not is_time(name)}
    both = [name for name in then if name in metrics]
    for name in both:
        if plain_number(then[name]) != metrics[name]:
            told = f"{name}: the run had {then[name]}, now {_told(metrics[name])}"
            return Compared("bundle's numbers", "different", told)
    bad = [f"{name} is {then[name]}" for name in both if not math.isfinite(then[name])]
    return Compared("bundle's numbers", "equal", ", ".join([f"{len(both)} metrics", *bad]))


def _told(value: Any) -> str:
    return "not finite" if value is None else repr(value)


def _first(then: np.ndarray, now: np.ndarray) -> str:
    """How many numbers of two arrays of one shape differ, and the first that does."""
    one, other = np.atleast_1d(then), np.atleast_1d(now)
    if np.issubdtype(one.dtype, np.inexact):
        differing = (one != other) & ~(np.isnan(one) & np.isnan(other))
    else:
        differing = one != other
    places = np.argwhere(differing)
    if not len(places):
        return "its zeros or NaNs have other bits"
    place = tuple(places[0].tolist())
    return (
        f"{len(places)} of {one.size} numbers differ, the first at {list(place)}: "
        f"the run had {one[place]}, now {other[place]}"
    )
