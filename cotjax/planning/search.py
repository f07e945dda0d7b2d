"""The fastest settings that fit: one setting at a time, each kept if it is better.

Better is what fits rather than what does not, then what is short of less memory, then what is
faster. A pass over all settings is repeated until nothing changes. What is changed here does not
change what is learned: how work is cut and kept, not how much of it there is.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cotjax.config import Config, change, stage_class, stage_configs
from cotjax.errors import InputError

_PASSES = 2
_TENSOR = (1, 2, 4, 8)
Table = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Found:
    """A config that was tried.

    Attributes:
      config: it.
      table: how it differs from the config that was given.
      short: bytes that a device lacks; 0 if it fits.
      seconds: of the run's steps, at least.
    """

    config: Config
    table: Table
    short: int
    seconds: float

    @property
    def order(self) -> tuple[int, float]:
        """Less is better."""
        return self.short, self.seconds


# A config to (bytes that a device lacks, seconds of its steps).
Measure = Callable[[Config], tuple[int, float]]


def search(
    config: Config,
    measure: Measure,
    *,
    devices: int,
    slices: int = 1,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[Found, Found]:
    """Looks for the fastest settings that fit.

    Args:
      config: of a stage or of a list, whose stages get the same changes.
      measure: compiles a config; may raise `InputError` where it cannot be split.
      devices: of the topology.
      slices: of it, each a replica.
      told: is given a sentence after each config that was tried.

    Returns:
      what was given, and the best.

    Raises:
      InputError: the config that was given cannot be split over the devices.
    """
    seen: dict[str, Found] = {}

    def tried(table: Table) -> Found:
        key = repr(sorted((section, sorted(one.items())) for section, one in table.items()))
        if key not in seen:
            own = change(config, table, "--search") if table else config
            seen[key] = Found(own, table, *measure(own))
            told(_said(seen[key]))
        return seen[key]

    first = best = tried({})
    for _ in range(_PASSES):
        before = best
        for options in _axes(config, devices, slices):
            for option in options:
                try:
                    found = tried(_merged(best.table, option))
                except InputError as error:
                    told(f"{_shown(option)}: {error}")
                    continue
                best = min(best, found, key=lambda one: one.order)
        if best is before:
            break
    return first, best


def _axes(config: Config, devices: int, slices: int) -> Iterator[Sequence[Table]]:
    """The values of each setting that some stage of the run reads."""
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    apart = config.mesh.rollout_devices
    size = (devices - apart) // (config.mesh.replica or slices)
    yield [
        {"mesh": {"data": size // (fsdp * tensor), "fsdp": fsdp, "tensor": tensor}}
        for tensor in _TENSOR
        if size % tensor == 0
        for fsdp in sorted({1, max(size // tensor // 4, 1), size // tensor}, reverse=True)
        if (size // tensor) % fsdp == 0
    ]
    yield [{"model": {"remat": one}} for one in ("none", "dots", "full")]
    if any(stage_class(own.stage).reads_key("rollout.prompts") for own in stages):
        yield [
            {"mesh": {"rollout": axes}}
            for axes in ("", *_sampling_axes(apart or devices // slices))
        ]
    for section, name, values in (
        ("policy", "micro_batch", _halves(max(own.rollout.prompts for own in stages))),
        ("rollout", "cache_dtype", ("auto", "bfloat16", "int8")),
        ("rollout", "max_concurrent", (0, *_rows(stages))),
    ):
        if any(stage_class(own.stage).reads_key(f"{section}.{name}") for own in stages):
            yield [{section: {name: value}} for value in values]


def _sampling_axes(size: int) -> tuple[str, ...]:
    """Axes for sampling alone, over the devices of a slice."""
    return tuple(f"tensor={one}" for one in _TENSOR if one > 1 and size % one == 0)


def _halves(most: int) -> tuple[int, ...]:
    """1, 2, 4 … up to a number of prompts, at most 16."""
    return tuple(one for one in (1, 2, 4, 8, 16) if one <= most)


def _rows(stages: Sequence[Config]) -> tuple[int, ...]:
    """A half and a quarter of the completions of a step."""
    rows = max(own.rollout.prompts * own.rollout.group_size for own in stages)
    return tuple(one for one in (rows // 2, rows // 4) if one)


def _merged(table: Mapping[str, Mapping[str, Any]], more: Table) -> Table:
    sections = {*table, *more}
    return {name: {**table.get(name, {}), **more.get(name, {})} for name in sections}


def _shown(table: Table) -> str:
    pairs = [f"{section}.{name} = {value}" for section, one in sorted(table.items())
             for name, value in one.items()]  # fmt: skip
    return ", ".join(pairs) or "as given"


def _said(found: Found) -> str:
    fits = f"short of {found.short / 2**30:.2f} GiB" if found.short else "fits"
    return f"{_shown(found.table)}: {fits}, {found.seconds:,.1f} s"
