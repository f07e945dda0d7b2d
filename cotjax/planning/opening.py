"""Stages without weights, for devices that are not there."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from cotjax.config import Config, stage_configs
from cotjax.config.plugins import open_stage
from cotjax.errors import InputError
from cotjax.models.formats.locate import shapes_only
from cotjax.parallel.memory import unlimited


def stages_of(config: Config) -> list[Config]:
    """The configs of a run's stages, in order, each with the model that the first begins from.

    A stage begins from the weights of the one before, which have the same shapes.
    """
    if not config.stages:
        return [_by_shape(config, config)]
    found = stage_configs(config)
    return [_by_shape(own, found[0][1]) for _, own in found]


def _by_shape(config: Config, first: Config) -> Config:
    path = first.model.path
    model = dataclasses.replace(config.model, path=path, init="random", adapter="")
    return dataclasses.replace(config, model=model, resume=False)


def with_builtin_data(config: Config) -> Config:
    """The same run on the built-in problems, which are there on every machine.

    What is compiled depends on the data in the number of its records alone.
    """
    data = dataclasses.replace(
        config.data,
        **{"source": "problems", "path": "", "mixture": "", "eval_path": "", "eval_split": ""},
        **{"columns": {}, "layout": "auto", "start": 0, "stop": 0},
    )
    return dataclasses.replace(config, data=data)


@contextlib.contextmanager
def opened(config: Config, mesh: Any, *, layers: int = 0) -> Iterator[Any]:
    """The stage of a config of `stages_of`; no weights are read and no memory is allocated.

    Args:
      config: of one stage.
      mesh: of devices that may not be there.
      layers: how many of their first layers models have; 0 = all.

    Raises:
      InputError: a config that cannot be split over the mesh, or a wrong input.
    """
    with shapes_only(layers=layers), unlimited():
        try:
            yield open_stage(config, mesh)
        except InputError as error:
            if not config.name or not isinstance(config.stage, str):
                raise
            raise InputError(f"stage {config.stage}: {error}") from error
