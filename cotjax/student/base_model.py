"""The base of an adapter: noted in the run's folder, compared wherever the two meet again.

An adapter is a difference from weights. On others it computes something, but not what was trained.
"""

import json
import pathlib
from typing import Any

import jax

from cotjax.errors import InputError
from cotjax.models.fingerprint import fingerprint
from cotjax.storage import read_json, write_whole

FILE = "base.json"


def note_base(folder: pathlib.Path, path: str, base: Any) -> None:
    """Writes which weights a run's adapter stands beside, or compares them when it goes on.

    Args:
      folder: of the run.
      path: of the base, as the config has it.
      base: its parameters.

    Raises:
      InputError: the run began with other weights.
    """
    if check_base(folder, base) or not _is_here(base):
        return
    row = {"path": path, "fingerprint": fingerprint(base)}
    write_whole(folder / FILE, json.dumps(row) + "\n")


def check_base(folder: pathlib.Path, base: Any) -> bool:
    """Whether a run's folder says which base its adapter has, which is then this one.

    Args:
      folder: of the run.
      base: parameters that the adapter is to be used with.

    Raises:
      InputError: the run's base had other weights.
    """
    file = folder / FILE
    if not file.is_file() or not _is_here(base):
        return False
    fix = "Bring it back from a copy: it says which base the adapter has."
    row = read_json(file, fix=fix)
    if not (isinstance(row, dict) and {"path", "fingerprint"} <= {*row}):
        raise InputError(f"{file}: is damaged. {fix}")
    found = fingerprint(base)
    if found != row["fingerprint"]:
        raise InputError(
            f"{folder}: its adapter was trained on the weights {row['fingerprint']} of "
            f'"{row["path"]}", where {found} are now. Bring the old ones back.'
        )
    return True


def _is_here(base: Any) -> bool:
    """Whether this process holds every parameter whole."""
    leaves = jax.tree.leaves(base)
    return all(not isinstance(leaf, jax.Array) or leaf.is_fully_addressable for leaf in leaves)
