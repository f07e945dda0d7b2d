"""A run's own `model.remat`, where the config leaves it to "auto"."""

import pathlib
from typing import Any

from cotjax.config import Config, change
from cotjax.parallel import processes
from cotjax.parallel.memory import free_bytes
from cotjax.run.folder import config_of


def with_remat(config: Config, folder: pathlib.Path, mesh: Any) -> tuple[Config, str]:
    """The config with what "auto" comes to here, and a sentence on why, if it was chosen now.

    A resumed run keeps what it began with, so that its numbers stay the same to the bit. All
    processes take what the first one finds.

    Args:
      config: of one stage.
      folder: of its run.
      mesh: on which nothing lies yet.

    Raises:
      InputError: the stage cannot be opened.
    """
    if config.model.remat != "auto":
        return config, ""
    # Planning imports what teaches, which a run without teachers does without.
    from cotjax.planning.remat import FASTEST_FIRST, choose_remat

    remat, note = "", ""
    if config.resume:
        remat = config_of(folder, config).model.remat
    if remat not in FASTEST_FIRST:
        chosen = choose_remat(config, mesh, free_bytes(mesh))
        remat, note = processes.from_first(chosen.remat), str(chosen)
    return change(config, {"model": {"remat": remat}}, "auto"), note
