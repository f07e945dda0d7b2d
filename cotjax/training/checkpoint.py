"""Checkpoints: everything a run needs to go on, written atomically in the background by Orbax.

A checkpoint holds the training state (parameters, optimizer, step), where the data stands, the
tokens that were used, the settings that shaped it and the evaluations so far; and checksums of all
these files, which are compared before it is used. None holds a NaN: it is not written, or not used.
Random numbers need no storage: every key is folded from the seed and the step.
"""

import contextlib
import dataclasses
import functools
import logging
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from cotjax.checksums import damage, lost, newest_whole, steps_in, write_checksums
from cotjax.config.resuming import differences, fingerprint, refuse
from cotjax.errors import InputError, visible
from cotjax.progress import waiting
from cotjax.storage import AGAIN, unwritten
from cotjax.training.deferred import settled
from cotjax.training.finite import check_finite
from cotjax.training.update import TrainState
from cotjax.training.used import UsedTokens

Evaluations = Mapping[int, Mapping[str, Any]]  # numbers by step, as metrics.jsonl has them


class _Raised(logging.Filter):
    """Leaves out the errors that Orbax logs at length from its threads, and raises as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "orbax" not in record.pathname


_RAISED = _Raised()


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: the run folder; checkpoints lie in `checkpoints/<step>` inside.
      keep: how many of the newest are kept.
      settings: that shape the run, see `cotjax.config.resuming.shaping`; None says nothing of them.
    """

    def __init__(
        self, folder: pathlib.Path, *, keep: int, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = folder / "checkpoints"
        self._settings, self._saving = settings, 0
        logging.getLogger("absl").addFilter(_RAISED)
        self._manager = ocp.CheckpointManager(
            self.folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=True,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_names=("state", "data", "used", "run"),
        )

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, None if there is none."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: TrainState,
        data: dict[str, Any],
        used: UsedTokens | None = None,
        evaluations: Evaluations | None = None,
    ) -> None:
        """Starts writing; once this returns, the state may be changed.

        Args:
          step: loop steps done.
          state: training state.
          data: what the data iterator's `get_state` gave.
          used: tokens up to this step; None is none.
          evaluations: up to this step.

        Raises:
          NotFinite: the state holds a NaN or an infinity; the checkpoints before stay.
          InputError: this one, or the one before, cannot be written.
        """
        newest = self.latest()
        way_on = f"--resume goes on from step {newest}." if newest else "There is none before it."
        check_finite(state, f"{self.folder / str(step)} is not written", way_on)
        run = {
            "settings": self._settings or {},
            "fingerprint": fingerprint(self._settings or {}),
            "evaluations": {
                str(one): dict(numbers) for one, numbers in (evaluations or {}).items()
            },
        }
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(settled(data)),
            used=ocp.args.JsonSave(dataclasses.asdict(used or UsedTokens())),
            run=ocp.args.JsonSave(run),
        )
        with waiting("saving"), self._writing():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(step, args=items)

    def check(self) -> None:
        """Looks whether the newest checkpoint was written, or is still being written.

        Raises:
          InputError: it cannot be written.
        """
        if not self._manager.is_saving_in_progress():
            with self._writing():
                self._manager.wait_until_finished()

    def _seal(self) -> None:
        """Adds checksums; Orbax calls it when all is written, before the folder gets its name."""
        name = str(self._saving)
        found = [path for path in self.folder.glob(f"{name}*")
                 if path.name == name or path.name.startswith(f"{name}.")]  # fmt: skip
        write_checksums(max(found, key=lambda path: path.stat().st_mtime))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # TensorStore's, too
            raise unwritten(self.folder / str(self._saving), error, AGAIN) from error

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and the data position of a checkpoint.

        Args:
          step: which one.
          like: a state of the expected shapes and shardings.

        Raises:
          NotFinite: the state there holds a NaN or an infinity.
          InputError: the checkpoint is of another model or optimizer, or of other settings.
        """
        self._manager.wait_until_finished()
        stamped = self.settings(step)
        why = "shaped this checkpoint (config.toml there says otherwise, or was changed)"
        refuse(differences(stamped, self._settings or {}), self.folder.parent, why=why)
        _check_params(ocp.PyTreeCheckpointHandler(), self.folder / str(step), like.params)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(_mismatch(self.folder / str(step), error)) from error
        way_on = "Begin another run with another --name."
        if any(one < step for one in steps_in(self.folder)):
            way_on = "Move it away: --resume goes on from the one before it."
        check_finite(restored["state"], f"checkpoint {self.folder / str(step)}", way_on)
        return restored["state"], restored["data"]

    def used(self, step: int) -> UsedTokens | None:
        """The tokens that were used up to a checkpoint; None if it is older than their count."""
        found = self._item(step, "used")
        return UsedTokens(**found) if found else None

    def evaluations(self, step: int) -> dict[int, dict[str, Any]]:
        """The evaluations up to a checkpoint, by step; none if it is older than their record."""
        found = self._run(step).get("evaluations", {})
        return {int(one): dict(numbers) for one, numbers in found.items()}

    def settings(self, step: int) -> dict[str, Any]:
        """The settings that a checkpoint was made with; none if it is older than their record."""
        return dict(self._run(step).get("settings", {}))

    def _run(self, step: int) -> dict[str, Any]:
        return self._item(step, "run")

    def _item(self, step: int, name: str) -> dict[str, Any]:
        """What a checkpoint holds as JSON under a name; nothing if it is older than that."""
        if not (self.folder / str(step) / name).is_dir():
            return {}
        items = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
        return dict(self._manager.restore(step, args=items)[name] or {})

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          InputError: the last checkpoint cannot be written.
        """
        with waiting("writing the last checkpoint"), self._writing():
            self._manager.close()


def set_damaged_aside(folder: pathlib.Path) -> str:
    """Makes the newest whole checkpoint of a run the newest; call before it is resumed.

    Damaged ones are moved to `damaged/<step>` in the run folder, and what a kill left half-written
    is removed.

    Args:
      folder: the run folder.

    Returns:
      a sentence about what was damaged and the steps that are lost; empty if all is well.

    Raises:
      InputError: there are checkpoints, and none of them is whole.
    """
    inside, told = folder / "checkpoints", ""
    if jax.process_index() == 0:
        for half in inside.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)
        step, damaged = newest_whole(inside)
        if step is not None and damaged:
            told = lost(inside, step, damaged)
        for one in damaged:
            aside = folder / "damaged"
            aside.mkdir(exist_ok=True)
            again = len(list(aside.glob(f"{one}*")))
            (inside / str(one)).rename(aside / (f"{one}-{again}" if again else str(one)))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
    return told


def check_params(folder: pathlib.Path, like: Any) -> int:
    """The step of a run's newest parameters, which are those of a model; none is read.

    Args:
      folder: a run folder, or one of its `checkpoints/<step>` folders.
      like: parameters of the expected shapes, or these shapes.

    Raises:
      InputError: no checkpoint there, or one of another model.
    """
    path = _newest(folder)
    _check_params(ocp.PyTreeCheckpointHandler(), path, like)
    return int(path.name)


def restore_params(folder: pathlib.Path, like: Any) -> tuple[int, Any]:
    """The newest parameters of a run, without optimizer or data.

    Args:
      folder: a run folder, or one of its `checkpoints/<step>` folders.
      like: parameters of the expected shapes, or these shapes with a sharding.

    Returns:
      step, parameters.

    Raises:
      InputError: no checkpoint there, or one of another model.
    """
    path = _newest(folder)
    abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, like)}
    reader = ocp.PyTreeCheckpointHandler()
    # A partial restore passes over what the model lacks, so the trees are compared first.
    _check_params(reader, path, like)
    restored = reader.restore(
        epath.Path(path / "state").absolute(),
        args=ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        ),
    )
    return int(path.name), restored["params"]


def differing_params(folder: pathlib.Path, params: Any) -> list[str]:
    """The names of parameters that have other bits in a checkpoint.

    Args:
      folder: as `restore_params` takes it.
      params: parameters, whole on this process's devices.

    Raises:
      InputError: no checkpoint there, or one of another model.
    """
    _, there = restore_params(folder, params)
    pairs = zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(there), strict=True)
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, own), then in pairs
        if np.asarray(own).tobytes() != np.asarray(then).tobytes()
    ]


def _newest(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a run's newest whole checkpoint, or of the one that is named."""
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    if steps_in(inside):
        step, damaged = newest_whole(inside)
        if step is not None and damaged:
            _warn(lost(inside, step, damaged))
        return inside / str(step)
    if not (inside / "state").is_dir():
        raise InputError(
            f"--checkpoint {folder}: no checkpoint there. Name a run folder such as runs/NAME."
        )
    if wrong := damage(inside):
        raise InputError(
            f"--checkpoint {folder}: is damaged ({wrong}). Name another checkpoint of this run, or "
            "its folder for the newest one that is whole."
        )
    return inside


@functools.cache  # who checks and then reads hears of it once
def _warn(text: str) -> None:
    print(visible(f"note: {text}"), file=sys.stderr)


def _check_params(reader: ocp.PyTreeCheckpointHandler, path: pathlib.Path, like: Any) -> None:
    """Compares names and shapes before any array is read."""
    stored: Any = reader.metadata(epath.Path(path / "state").absolute())
    found = _shapes(stored.tree["params"])
    wanted = _shapes(like)
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            reason = f"{name} is {found.get(name)} there and {wanted.get(name)} in the model"
            raise InputError(_mismatch(path, ValueError(reason)))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _mismatch(path: pathlib.Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0][:200]
    return (
        f"{path}: not a checkpoint of this model ({reason}). Set model.path and optimizer as they "
        "were when the run began (config.toml in the run folder)."
    )
