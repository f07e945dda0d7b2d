"""The trackers of a run, as its config names them."""

import hashlib
import pathlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cotjax.config import Config, to_toml
from cotjax.remote.place import is_url, joined
from cotjax.training.tracker_kinds import KINDS
from cotjax.training.trackers import TrackedRun, Trackers


def trackers_of(
    config: Config,
    folder: pathlib.Path,
    parts: Sequence[Mapping[str, Any]],
    warn: Callable[[str], None],
    *,
    silent: bool,
) -> Trackers:
    """The trackers that `track` names; nothing is opened yet.

    Args:
      config: of the run, resolved.
      folder: of the run.
      parts: of the run, the first of which says when it began; a name of its own comes from that.
      warn: is told of a tracker that fails.
      silent: tell nobody, as all processes of a run but one do.
    """
    above = folder.parent
    listed = (above / "config.toml").is_file()  # a stage lies in the folder of its list
    # The local copy of a run in a bucket lies elsewhere on another machine.
    place = joined(config.output, config.name) if is_url(config.output) else folder.resolve()
    began = f"{place} {parts[0]['started']}" if parts else folder.name
    run = TrackedRun(
        project=config.track_project,
        name=f"{above.name}-{folder.name}" if listed else folder.name,
        group=above.name if listed else "",
        id=hashlib.sha256(began.encode()).hexdigest()[:12],
        folder=folder,
        config=tomllib.loads(to_toml(config)),
    )
    names = () if silent else dict.fromkeys(config.track)
    return Trackers({name: KINDS[name] for name in names}, run, warn)
