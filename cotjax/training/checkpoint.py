"""Checkpoints: everything a run needs to go on, written atomically in the background by Orbax.

A checkpoint holds the training state (parameters, optimizer, step), where the data stands, and the
tokens that were used.
Random numbers need no storage: every key is folded from the seed and the step.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from cotjax.errors import InputError
from cotjax.training.update import TrainState
from cotjax.training.used import UsedTokens


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: the run folder; checkpoints lie in `checkpoints/<step>` inside.
      keep: how many of the newest are kept.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int) -> None:
        self.folder = folder / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self.folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            item_names=("state", "data", "used"),
        )

    def latest(self) -> int | None:
        """The newest complete checkpoint's step, None if there is none."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], used: UsedTokens | None = None
    ) -> None:
        """Starts writing; once this returns, the state may be changed.

        Args:
          step: loop steps done.
          state: training state.
          data: what the data iterator's `get_state` gave.
          used: tokens up to this step; None is none.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(data),
            used=ocp.args.JsonSave(dataclasses.asdict(used or UsedTokens())),
        )
        self._manager.save(step, args=items)

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The state and the data position of a checkpoint.

        Args:
          step: which one.
          like: a state of the expected shapes and shardings.

        Raises:
          InputError: the checkpoint is of another model or optimizer.
        """
        self._manager.wait_until_finished()
        _check_params(ocp.PyTreeCheckpointHandler(), self.folder / str(step), like.params)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=items)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(_mismatch(self.folder / str(step), error)) from error
        return restored["state"], restored["data"]

    def used(self, step: int) -> UsedTokens | None:
        """The tokens that were used up to a checkpoint; None if it is older than their count."""
        if not (self.folder / str(step) / "used").is_dir():
            return None
        items = ocp.args.Composite(used=ocp.args.JsonRestore())
        return UsedTokens(**self._manager.restore(step, args=items)["used"])

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


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


def _newest(folder: pathlib.Path) -> pathlib.Path:
    """The folder of a run's newest checkpoint, or of the one that is named."""
    inside = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = [int(path.name) for path in inside.glob("*") if path.name.isdigit()]
    path = inside / str(max(steps)) if steps else inside
    if not (path / "state").is_dir():
        raise InputError(
            f"--checkpoint {folder}: no checkpoint there. Name a run folder such as runs/NAME."
        )
    return path


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
