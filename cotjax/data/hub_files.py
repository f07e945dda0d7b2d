"""Which Parquet files of a data set's repository are one split of one of its configs."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from cotjax import hub
from cotjax.errors import InputError

DEFAULT = "default"  # what the hub calls the config of a data set that has no other


def split_files(path: str, config: str, split: str, key: str) -> list[Path]:
    """The Parquet files of a split, downloaded unless they are there already.

    The hub's own conversion comes before the repository's files; with a revision in the name only
    these count, for the conversion is of the newest.

    Args:
      path: `owner/name`, with `@revision` or without; or a local folder laid out alike, which wins.
      config: of the data set; empty: its only one, or the one called default.
      split: of the config.
      key: that named the path, for errors.

    Raises:
      InputError: no such data set, config or split, or the hub cannot be reached.
    """
    folder = Path(path)
    if folder.is_dir():
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.parquet"))
        return [folder / name for name in chosen(names, config, split, key, path)]
    if not hub.is_id(path):
        raise InputError(
            f'{key} = "{path}": no such folder here, and no name of the Hugging Face Hub, such as '
            f'openai/gsm8k. Set {key} to "owner/name".'
        )
    branch = "" if "@" in path else hub.CONVERTED
    found = hub.listing(path, "dataset", key, ".parquet", branch) if branch else None
    if not found:
        branch, found = "", hub.listing(path, "dataset", key, ".parquet")
    names = chosen(found or [], config, split, key, path)
    local = hub.fetch(path, "dataset", key, names, branch)
    return [local / name for name in names]


def chosen(names: Sequence[str], config: str, split: str, key: str, path: str) -> list[str]:
    """The names, among those of a repository's Parquet files, of one split.

    Raises:
      InputError: there is none; lists what there is.
    """
    if not names:
        raise InputError(
            f'{key} = "{path}": this data set has no Parquet files. Download it, and set '
            'data.source = "jsonl".'
        )
    places = {name: place_of(name) for name in names}
    configs = _unique(one for one, _ in places.values())
    if not config and len(configs) > 1 and DEFAULT not in configs:
        raise InputError(
            f'data.config = "": {path} has several. Set data.config to one of {_some(configs)}.'
        )
    own = config or (configs[0] if len(configs) == 1 else DEFAULT)
    if own not in configs:
        raise InputError(
            f'data.config = "{own}": {path} has none of that name. Set data.config to one of '
            f"{_some(configs)}."
        )
    splits = _unique(second for first, second in places.values() if first == own)
    if split not in splits:
        raise InputError(
            f'data.split = "{split}": {path} has none of that name in {own}. Set data.split, or '
            f"data.eval_split, to one of {_some(splits)}."
        )
    return [name for name, place in places.items() if place == (own, split)]


def place_of(name: str) -> tuple[str, str]:
    """The config and the split that a file's name tells.

    Example:
      >>> place_of("main/train/0000.parquet"), place_of("data/test-00000-of-00002.parquet")
      (('main', 'train'), ('default', 'test'))
      >>> place_of("socratic/train-00000-of-00001.parquet"), place_of("train.parquet")
      (('socratic', 'train'), ('default', 'train'))
    """
    pure = PurePosixPath(name)
    *folders, split = [*pure.parent.parts, re.sub(r"[-_]?\d+([-_]of[-_]\d+)?$", "", pure.stem)]
    if not split and folders:
        *folders, split = folders
    folders = [folder for folder in folders if folder != "data"]
    return "/".join(folders) or DEFAULT, split.removeprefix("partial-")


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _some(values: Sequence[str]) -> str:
    shown = ", ".join(values[:12])
    return shown if len(values) <= 12 else f"{shown} and {len(values) - 12} others"
