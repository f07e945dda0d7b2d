"""A run in a bucket, fetched: its texts, and the newest of its checkpoints that is whole."""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from cotjax.checksums import ENDED, FILE, damage
from cotjax.errors import InputError, visible
from cotjax.remote.lease import OWN, writer_of
from cotjax.remote.local import CHECKPOINTS, LocalCopy, is_text, split_step, stat_of
from cotjax.remote.place import (
    RemoteFile,
    RemoteFolder,
    folder_of,
    inside,
    is_url,
    named,
    open_remote,
    unreached,
)  # fmt: skip

Listing = Mapping[str, RemoteFile]
_WAIT = 60.0  # seconds for another command of this machine that fetches the same run
_STAGE = re.compile(r"\d+-.+")
_WRITTEN: set[str] = set()  # runs that this process writes


@contextlib.contextmanager
def written_here(url: str) -> Iterator[None]:
    """A block in which this process writes a run: the local copy is the newest there is."""
    _WRITTEN.add(url)
    try:
        yield
    finally:
        _WRITTEN.discard(url)


def local_copy(
    path: str | pathlib.Path,
    *,
    key: str = "--checkpoint",
    weights: bool = True,
    below: int = 0,
    again: bool = False,
) -> pathlib.Path:
    """Where a path lies on this machine; what a URL names is fetched first, once in a process.

    Args:
      path: of this machine, which stays as it is; or the URL of a run, of a stage or a checkpoint
        in it, or of a model's folder.
      key: that named it, for errors.
      weights: whether a checkpoint is needed too: the one that is named, or the newest.
      below: the checkpoint is the newest of an earlier step than this; 0 = of any.
      again: look whether the bucket has something newer than at the last time.

    Raises:
      InputError: nothing is there, or it cannot be read.
    """
    url = str(path)
    if not is_url(url):
        return pathlib.Path(path)
    if any(inside(url, own) for own in _WRITTEN):
        return folder_of(url, key)
    if again:
        _fetched.cache_clear()
    return _fetched(url.rstrip("/"), key, weights, below)


def begun_copy(path: str) -> pathlib.Path:
    """The folder of a run that is to go on, with its texts as new as they are anywhere.

    Args:
      path: of the run's folder, or its URL; one that ends in a slash names no run.

    Raises:
      InputError: the bucket cannot be read, or holds no such run.
    """
    if is_url(path) and path.endswith("/"):
        return folder_of(path)
    return local_copy(path, key="output", weights=False)


@functools.cache
def _fetched(url: str, key: str, weights: bool, below: int) -> pathlib.Path:
    try:
        remote, within = _run_of(url, key)
        local = LocalCopy(remote.url, key)
        with local.locked(0 if local.writer else _WAIT) as mine:
            if mine:  # else a run writes it, which is newer than the bucket
                bring(remote, local, key, _wanted(within, below) if weights else None)
    except InputError:
        raise
    except Exception as error:  # each filesystem has its own
        raise unreached(url, key, error) from error
    return folder_of(url, key)


def _run_of(url: str, key: str) -> tuple[RemoteFolder, str]:
    """The run that a URL lies in, and what it names there: a stage, a checkpoint, or nothing."""
    within = ""
    parts = url.split("/")
    if len(parts) > 2 and parts[-2] == CHECKPOINTS and parts[-1].isdigit():
        parts, within = parts[:-2], f"{CHECKPOINTS}/{parts[-1]}"
    remote = open_remote("/".join(parts), key)
    if _STAGE.fullmatch(parts[-1]):
        above = open_remote("/".join(parts[:-1]), key)
        if above.read("config.toml") is not None:  # a list of stages
            return above, f"{parts[-1]}/{within}"
    return remote, within


# Which checkpoints are wanted: of (stage, step), the best first.
Step = tuple[str, int]
Wanted = Callable[[Sequence[Step]], list[list[Step]]]


def _wanted(within: str, below: int) -> Wanted:
    """One checkpoint: of the newest stage, or of that which is named."""
    named = split_step(within)

    def choose(steps: Sequence[Step]) -> list[list[Step]]:
        if named:
            return [[named[:2]]] if named[:2] in steps else []
        own = [one for one in steps if one[0].startswith(within) and (one[1] < below or not below)]
        newest = max((_order(stage) for stage, _ in own), default=0)
        found = [one for one in own if _order(one[0]) == newest]
        return [sorted(found, reverse=True)] if found else []

    return choose


def newest_of_each(steps: Sequence[Step]) -> list[list[Step]]:
    """The newest checkpoint of every stage, as a run needs them that goes on."""
    found: dict[str, list[Step]] = {}
    for one in sorted(steps, reverse=True):
        found.setdefault(one[0], []).append(one)
    return list(found.values())


def _order(stage: str) -> int:
    return int(stage.partition("-")[0]) if stage else 0


def bring(
    remote: RemoteFolder,
    local: LocalCopy,
    key: str,
    wanted: Wanted | None,
    *,
    last: str | None = None,
) -> None:
    """Makes the local copy, whose lock is held, as new as the bucket; what is newer here stays.

    Args:
      remote: the run in the bucket.
      local: its copy here.
      key: that named it, for errors.
      wanted: which checkpoints are fetched; None fetches none.
      last: the id of who wrote the run last; None asks the bucket.

    Raises:
      InputError: there is nothing, or no checkpoint is whole.
      Exception: what the filesystem raises.
    """
    listing = remote.listing()
    if not any(name not in OWN for name in listing):
        if local.begun:  # nothing of it could be uploaded yet
            return
        raise InputError(
            f"{named(key, remote.url)}: there is nothing. Name the folder of a run, OUTPUT/NAME."
        )
    last = str(writer_of(remote).get("id", "")) if last is None else last
    newest = bool(local.writer) and local.begun and last in ("", local.writer)  # written here
    if not newest:
        if local.writer and local.folder.exists():
            _say(
                f"{local.folder}: another machine has gone on with this run, whose bucket counts. "
                f"What was here is in {local.set_aside()} now."
            )
        _fetch_texts(remote, local, listing)
    if wanted is not None and not (newest and _newest_are_whole(local)):
        _fetch_steps(remote, local, listing, wanted)


def _newest_are_whole(local: LocalCopy) -> bool:
    steps = [step[:2] for name in local.steps() if (step := split_step(name))]
    newest = [found[0] for found in newest_of_each(steps)]
    return bool(newest) and not any(
        damage(local.folder / f"{stage}{CHECKPOINTS}/{step}") for stage, step in newest
    )


def _fetch_texts(remote: RemoteFolder, local: LocalCopy, listing: Listing) -> None:
    """Fetches the files beside the checkpoints that are not here as they are in the bucket."""
    for name, found in listing.items():
        path = local.folder / name
        if name in OWN or not is_text(name):
            continue
        if path.is_file() and local.files.get(name, ("",))[0] == found.mark:
            continue
        remote.get(name, path)
        if path.name == "metrics.jsonl":  # its time says when a part of the run ended
            time = remote.modified(name)
            if time is not None:
                os.utime(path, (time.timestamp(), time.timestamp()))
        local.files[name] = found.mark, stat_of(path)
    local.save()


def _fetch_steps(remote: RemoteFolder, local: LocalCopy, listing: Listing, wanted: Wanted) -> None:
    files: dict[Step, list[str]] = {}
    for name in listing:
        if step := split_step(name):
            files.setdefault(step[:2], []).append(step[2])
    whole = [one for one, names in files.items() if _counts(names)]
    for candidates in wanted(whole):
        wrong: list[str] = []
        for stage, step in candidates:
            told = _fetch_step(remote, local, listing, f"{stage}{CHECKPOINTS}/{step}")
            if not told:
                break
            wrong.append(f"{stage}{CHECKPOINTS}/{step}: {told}")
        else:
            raise InputError(
                f"{remote.url}: no checkpoint is whole ({'; '.join(wrong)}). Bring the files back "
                "from a copy, or begin a new run with another --name."
            )
        if wrong:
            _say(f"{remote.url}: is damaged ({'; '.join(wrong)}), so an older one is used.")
    if not local.writer:  # a copy of the bucket alone: what was removed there is not kept here
        for name in local.steps():
            if (split_step(name) or ("", 0))[:2] not in files:
                shutil.rmtree(local.folder / name)


def _counts(names: Sequence[str]) -> bool:
    """Whether a checkpoint is there, and not a part of one that is uploaded or removed.

    One of an earlier version has no `run`, and no checksums.
    """
    return FILE in names or (ENDED in names and not any(one.startswith("run/") for one in names))


def _fetch_step(remote: RemoteFolder, local: LocalCopy, listing: Listing, step: str) -> str:
    """Fetches a checkpoint unless it is here; what is wrong with it, empty if nothing is."""
    target = local.folder / step
    if target.is_dir() and not damage(target):
        return ""
    names = [name for name in listing if name.startswith(f"{step}/")]
    if told := _cut(remote.read(f"{step}/{FILE}"), listing, step):
        return told
    half = local.scratch / step
    shutil.rmtree(half, ignore_errors=True)
    for name in names:
        remote.get(name, half / name.removeprefix(f"{step}/"))
    told = damage(half)
    if not told:
        shutil.rmtree(target, ignore_errors=True)  # the damaged one
        target.parent.mkdir(parents=True, exist_ok=True)
        half.rename(target)
    shutil.rmtree(local.scratch, ignore_errors=True)
    return told


def _cut(table: bytes | None, listing: Listing, step: str) -> str:
    """What the sizes in the bucket say, before anything large is fetched."""
    try:
        entries = json.loads(table or b"{}").items()
        for name, (size, _) in entries:
            there = listing.get(f"{step}/{name}")
            if there is None:
                return f"{name} is missing"
            if there.size != size:
                return f"{name} has {there.size:,} bytes of {size:,}"
    except (ValueError, TypeError, AttributeError):
        return f"{FILE} is damaged"
    return ""


def _say(text: str) -> None:
    print(visible(f"note: {text}"), file=sys.stderr)
