"""Folders of a bucket by their URL: `gs://NAME/…`, `s3://NAME/…`, or another protocol of fsspec.

A run is computed in a folder of this machine, which its bucket mirrors; `folder_of` says in which.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import os
import pathlib
import re
from typing import Any

from cotjax.errors import InputError

VARIABLE = "COTJAX_BUCKETS"  # an environment variable: where the folders of buckets lie here
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_STATE = ".state"  # what is known of the copies, beside them


def is_url(path: object) -> bool:
    """Whether a path is the URL of something in a bucket.

    Example:
      >>> [is_url(path) for path in ("gs://my-runs/maths", "runs/maths", "/a//b", "openai/gsm8k")]
      [True, False, False, False]
    """
    return _URL.match(str(path)) is not None


def joined(output: str, name: str) -> str:
    """The path or URL of a name in a folder.

    Example:
      >>> joined("gs://my-runs/maths/", "grpo"), joined("runs", "grpo")
      ('gs://my-runs/maths/grpo', 'runs/grpo')
    """
    return f"{output.rstrip('/')}/{name}" if is_url(output) else str(pathlib.Path(output, name))


def inside(path: str, folder: str) -> bool:
    """Whether a URL is that of a folder, or of something in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def named(key: str, url: str) -> str:
    """How an error begins: a URL behind the key or the flag that named it, if one did.

    Example:
      >>> named("output", "gs://a/b"), named("--checkpoint", "gs://a/b"), named("", "gs://a/b")
      ('output = "gs://a/b"', '--checkpoint gs://a/b', 'gs://a/b')
    """
    if key.startswith("--") or not key:
        return f"{key} {url}".strip()
    return f'{key} = "{url}"'


def folder_of(path: str | pathlib.Path, key: str = "output") -> pathlib.Path:
    """Where the files of a path lie on this machine: there, or for a URL in a folder of its own.

    That one is in `~/.cache/cotjax/buckets` (`XDG_CACHE_HOME` is honoured), or in COTJAX_BUCKETS.

    Args:
      path: or URL; nothing is fetched.
      key: that named it, for the error.

    Raises:
      InputError: a URL that names no folder.
    """
    found = _URL.match(str(path))
    return _cache().joinpath(*_parts(str(path), key)) if found else pathlib.Path(path)


def state_of(url: str) -> pathlib.Path:
    """Where this machine notes what it knows of the local copy of a URL; see `folder_of`."""
    return _cache().joinpath(_STATE, *_parts(url, "output"))


def _cache() -> pathlib.Path:
    if os.environ.get(VARIABLE):
        return pathlib.Path(os.environ[VARIABLE]).expanduser()
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "cotjax" / "buckets"


def _parts(url: str, key: str) -> list[str]:
    found = _URL.match(url)
    assert found, "it is a URL"
    names = [name for name in found[2].split("/") if name]
    if not names or {".", ".."} & {*names}:
        raise InputError(
            f"{named(key, url)}: names no folder of a bucket. Write {found[1]}://BUCKET/FOLDER."
        )
    return [found[1].lower(), *names]


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file in a bucket.

    Attributes:
      size: in bytes.
      mark: changes with every version of the file.
    """

    size: int
    mark: str


class RemoteFolder:
    """A folder of a bucket; every method may raise what its filesystem raises.

    Args:
      url: of the folder.
      filesystem: of fsspec.
      root: the folder's path there.
    """

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = url
        self._files, self._root = filesystem, root.rstrip("/")

    def listing(self) -> dict[str, RemoteFile]:
        """Every file by its name in the folder, those in its folders too; none if it is absent."""
        self._files.invalidate_cache()
        try:
            found = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        start = f"{self._root}/"
        return {
            path.removeprefix(start): RemoteFile(int(info.get("size") or 0), _mark(info))
            for path, info in found.items()
            if path.startswith(start) and info.get("type") != "directory"
        }

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if it is not there."""
        try:
            return self._files.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Writes a small file."""
        self._files.pipe_file(self._at(name), data)

    def put(self, file: pathlib.Path, name: str) -> None:
        """Uploads a file of this machine, which does not change meanwhile."""
        self._files.put_file(str(file), self._at(name))

    def get(self, name: str, file: pathlib.Path) -> None:
        """Downloads a file; it is there in one piece or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_name(f"{file.name}.tmp")
        try:
            self._files.get_file(self._at(name), str(half))
            os.replace(half, file)
        finally:
            half.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def remove_folder(self, name: str) -> None:
        """Removes all files of a folder in this one, if there are any."""
        self._files.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self._files.rm(self._at(name), recursive=True)

    def modified(self, name: str) -> datetime.datetime | None:
        """When a file was written, by the clock of the bucket; None where it does not say."""
        self._files.invalidate_cache()
        try:
            found = self._files.modified(self._at(name))
        except NotImplementedError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def _mark(info: dict[str, Any]) -> str:
    """Of what a filesystem says of a file: its time, its ETag, its generation."""
    text = repr(sorted((name, str(value)) for name, value in info.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_remote(url: str, key: str) -> RemoteFolder:
    """The folder behind a URL, which need not exist; nothing is asked of it yet.

    Args:
      url: of the folder.
      key: that named it, for errors.

    Raises:
      InputError: no such protocol, its package is not installed, or it refuses the URL.
    """
    import fsspec  # here: most runs have no bucket

    protocol, *_ = _parts(url, key)
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        filesystem, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f'Run pip install "cotjax[{extra}]"' if extra else "Install it"
        raise InputError(
            f"{named(key, url)}: the package for {protocol}:// is not installed "
            f"({reason_of(error)}). {fix}, or name a folder of this machine."
        ) from error
    except Exception as error:  # each filesystem has its own
        raise InputError(
            f"{named(key, url)}: cannot be opened ({reason_of(error)}). Write gs://BUCKET/FOLDER, "
            "s3://BUCKET/FOLDER, or another protocol that fsspec knows."
        ) from error
    return RemoteFolder(url, filesystem, root)


def reason_of(error: BaseException) -> str:
    """What a filesystem raised, on one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def unreached(url: str, key: str, error: BaseException) -> InputError:
    """The error of a bucket that cannot be read."""
    return InputError(
        f"{named(key, url)}: cannot be read ({reason_of(error)}). Correct the URL, or give this "
        "machine credentials for it."
    )
