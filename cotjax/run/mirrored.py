"""The folder that a run is written to: that of its config, or the local copy of one in a bucket.

`output = "gs://…"` needs no mounted bucket: the run lies in a folder of this machine, which a
thread uploads. Imports no JAX.
"""

import contextlib
import pathlib
import uuid
from collections.abc import Callable, Generator

from cotjax.config import Config, stage_configs
from cotjax.errors import InputError, visible
from cotjax.parallel.launchers import find_launch
from cotjax.remote.fetch import bring, newest_of_each, written_here
from cotjax.remote.lease import OWN, Lease, probe, unwritable
from cotjax.remote.local import LocalCopy
from cotjax.remote.place import (
    RemoteFile,
    RemoteFolder,
    folder_of,
    is_url,
    joined,
    open_remote,
    unreached,
)  # fmt: skip
from cotjax.remote.upload import Uploader
from cotjax.run.folder import console

_WAIT = 10.0  # seconds for a command of this machine that is fetching the run

Notify = Callable[[], None]


def nothing() -> None:
    """Tells nobody."""


@contextlib.contextmanager
def mirrored(config: Config) -> Generator[tuple[pathlib.Path, Notify]]:
    """The folder of a run while it is written, and what is told of each evaluation.

    Of a bucket it is the local copy, which is fetched before (for `--resume`) and uploaded
    meanwhile and at the end, also that of a run that fails.

    Raises:
      InputError: several processes have one bucket, it cannot be written, its package is not
        installed, another process writes the run, the name is taken, there is no run to resume,
        or the end could not be uploaded.
    """
    if not is_url(config.output):
        yield pathlib.Path(config.output) / config.name, nothing
        return
    refuse_several(config.output)
    url = joined(config.output, config.name)
    local, remote = LocalCopy(url), open_remote(url, "output")
    with local.locked(_WAIT) as mine:
        if not mine:
            raise InputError(
                f"{url}: another process of this machine is writing or fetching this run. Wait for "
                "it or end it, or choose another --name."
            )
        begun = _is_begun(remote, resume=config.resume)
        lease = Lease(remote, local.writer or uuid.uuid4().hex)
        last = lease.take()
        try:
            there = _fetched(config, remote, local, lease, last)
            uploader = Uploader(remote, local, lease, there, keep=_keep(config), warn=_warn)
            with written_here(url):
                lease.keep()
                uploader.start()
                yield from _uploading(config, local, uploader)
        finally:
            lease.release(begun=begun or local.begun)


def _uploading(
    config: Config, local: LocalCopy, uploader: Uploader
) -> Generator[tuple[pathlib.Path, Notify]]:
    url = joined(config.output, config.name)
    way_on = f"cotjax train --resume --output={config.output} --name={config.name}"
    try:
        yield local.folder, uploader.notify
    except BaseException:
        if reason := uploader.close():
            _warn(
                f"{url}: the end of the run could not be uploaded ({reason}). Everything is in "
                f"{local.folder}; go on from this machine: {way_on}"
            )
        raise
    if reason := uploader.close():
        raise InputError(
            f"{url}: the end of the run could not be uploaded ({reason}). Everything is in "
            f"{local.folder}; upload it from this machine: {way_on}"
        )
    console().print(f"{url} has all of it.")


def _is_begun(remote: RemoteFolder, *, resume: bool) -> bool:
    """Whether the bucket has the run; asked before anything is written there.

    Raises:
      InputError: it has, and the run is not to go on; or it cannot be read.
    """
    try:
        begun = any(name not in OWN for name in remote.listing())
    except Exception as error:  # each filesystem has its own
        raise unreached(remote.url, "output", error) from error
    if begun and not resume:
        raise InputError(
            f"{remote.url} exists. Add --resume to continue it, or choose another --name."
        )
    return begun


def _fetched(
    config: Config, remote: RemoteFolder, local: LocalCopy, lease: Lease, last: str
) -> dict[str, RemoteFile]:
    """What the bucket holds of the run, after a run that goes on was fetched."""
    url = remote.url
    try:
        there = remote.listing()
        if any(name not in OWN for name in there):
            bring(remote, local, "output", newest_of_each, last=last)
    except InputError:
        raise
    except Exception as error:  # each filesystem has its own
        raise unreached(url, "output", error) from error
    if config.resume and not local.begun:
        raise InputError(f"--resume: {url} is not a run. Name one that was begun, or drop it.")
    local.writer = lease.id
    local.save()
    return there


def _keep(config: Config) -> int:
    stages = [own for _, own in stage_configs(config)] if config.stages else [config]
    return max(own.checkpoint.keep for own in stages)


def _warn(text: str) -> None:
    console().print(visible(text), style="yellow")


def refuse_several(output: str) -> None:
    """Refuses a bucket's URL for a run of several processes.

    Raises:
      InputError: see above.
    """
    launch = find_launch()
    if launch and launch.count > 1:
        raise InputError(
            f'output = "{output}": {launch.count} processes ({launch.by}) write one run folder, '
            "and a URL is for one process. Mount the bucket on each host and set --output to its "
            "folder there, as cotjax launch does (docs/launching.md)."
        )


def check_bucket(config: Config) -> str:
    """Looks whether a run could be written to the bucket of its config, and says where it lies.

    Raises:
      InputError: it could not.
    """
    url = joined(config.output, config.name)
    refuse_several(config.output)
    remote = open_remote(url, "output")
    try:
        probe(remote)
        taken = remote.read("config.toml") is not None
    except Exception as error:  # each filesystem has its own
        raise unwritable(url, error) from error
    told = f"{url} can be written, and {folder_of(url)} holds the run meanwhile"
    return f"{told}; a run is there, which --resume continues" if taken else told
