"""How long a run took, over all its parts: one from its start, one from each time it is resumed.

parts.json in the run folder holds them. A part that was killed could not write its end; the next
one finds it in the last change of metrics.jsonl, which grows with every step.
"""

import datetime
import json
import os
import pathlib
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax

from cotjax import __version__
from cotjax.errors import InputError
from cotjax.run.commit import commit_of
from cotjax.storage import read_json, rows_of, write_whole

Part = dict[str, Any]


class Parts:
    """The parts of a run, the one that is going on as the last.

    Args:
      folder: the run folder.
      began: when this part did, as `time.monotonic` counts.
      silent: write nothing, as all processes of a run but one do.
      changed: settings that this part has otherwise than the one before, as (before, now).
      data: digests of the files of records by their path.
      hub: commits of what was fetched from the Hugging Face Hub, see `cotjax.hub.commits`.

    Raises:
      InputError: parts.json is damaged.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        began: float,
        silent: bool = False,
        changed: Mapping[str, tuple[Any, Any]] | None = None,
        data: Mapping[str, str] | None = None,
        hub: Mapping[str, str] | None = None,
    ) -> None:
        self._folder, self._began, self._silent = folder, began, silent
        self._earlier = earlier_parts(folder)
        past = datetime.timedelta(seconds=time.monotonic() - began)
        self._own: Part = {
            "started": (datetime.datetime.now().astimezone() - past).isoformat(
                timespec="milliseconds"
            ),
            "version": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
            "machine": machine(),
            "xla_flags": xla_flags(),
        }
        if data:
            self._own["data"] = dict(data)
        if hub:
            self._own["hub"] = dict(hub)
        if changed:
            self._own["changed"] = {key: list(pair) for key, pair in changed.items()}
        if not silent:
            self._own["commit"] = commit_of()
        if not self._earlier:  # else the checkpoint may yet refuse this part
            self.write(0, 0)

    def write(self, first_step: int, last_step: int) -> None:
        """Writes how far this part has come.

        Args:
          first_step: steps that were done before it.
          last_step: steps that are done now.
        """
        self._own |= {"first_step": first_step, "last_step": last_step}
        self._write(ended=False)

    def end(self) -> None:
        """Writes that nothing follows in this part."""
        self._write(ended=True)

    def _write(self, *, ended: bool) -> None:
        """In one piece."""
        self._own |= {"seconds": round(time.monotonic() - self._began, 1), "ended": ended}
        if not self._silent:
            write_whole(self._folder / "parts.json", json.dumps(self.all, indent=2) + "\n")

    @property
    def all(self) -> list[Part]:
        """Every part; without this one if it found the run at its end and took no step."""
        idle = self._own["ended"] and self._own["first_step"] == self._own["last_step"]
        if idle and self._earlier and self._earlier[-1]["ended"]:
            return self._earlier
        return [*self._earlier, self._own]

    @property
    def seconds(self) -> float:
        """Of all parts together."""
        return round(sum(part["seconds"] for part in self.all), 1)


def earlier_parts(folder: pathlib.Path) -> list[Part]:
    """The parts of a run so far; the end of a part that was killed is that of metrics.jsonl."""
    path, metrics = folder / "parts.json", folder / "metrics.jsonl"
    fix = "Remove it to go on; what it says of the parts so far is then lost."
    found: Any = read_json(path, fix=fix) if path.is_file() else []
    if not (isinstance(found, list) and all(map(_is_part, cast(list[Any], found)))):
        raise InputError(f"{path}: is damaged. {fix}")
    parts = cast(list[Part], found)
    if parts and not parts[-1]["ended"] and metrics.is_file():
        last = parts[-1]
        started = datetime.datetime.fromisoformat(last["started"]).timestamp()
        last["seconds"] = max(last["seconds"], round(metrics.stat().st_mtime - started, 1))
        steps = [row["step"] for row in rows_of(metrics)]
        last["last_step"] = max(last["last_step"], *steps, 0)
    return parts


def _is_part(part: Any) -> bool:
    """Whether this is what is written of a part, as far as it is read again."""
    if not isinstance(part, dict):
        return False
    row = cast(Part, part)
    kinds = {"first_step": int, "last_step": int, "seconds": int | float, "ended": bool}
    try:
        datetime.datetime.fromisoformat(row["started"])
    except (KeyError, TypeError, ValueError):
        return False
    tables = (row.get(name, {}) for name in ("data", "changed", "hub"))
    return all(isinstance(row.get(name), kind) for name, kind in kinds.items()) and all(
        isinstance(one, dict) for one in tables
    )


def part_of(parts: Sequence[Part], step: int) -> Part:
    """The part that took a step, from 1; of a killed part later ones have taken steps again.

    Args:
      parts: of a run, in their order.
      step: that was taken.
    """
    nothing: Part = {}
    return next((one for one in reversed(parts) if one["first_step"] < step), nothing)


def xla_flags() -> str:
    """The flags of XLA's compiler, of which the bits of a result may depend."""
    return os.environ.get("XLA_FLAGS", "")


def machine() -> str:
    """Processor, cores and devices, in words."""
    devices: list[Any] = [*cast(Any, jax).devices()]
    kind = f"{len(devices)} × {devices[0].device_kind}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {kind}"
