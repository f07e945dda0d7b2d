"""A filesystem in memory that breaks off uploads, machines, and runs that were never trained."""

import json

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from cotjax.checksums import ENDED, ORBAX, write_checksums
from cotjax.remote import fetch, lease, upload


class Flaky(MemoryFileSystem):
    """`flaky://`: of paths with `broken` in them, `left` bytes can be written in all."""

    protocol = "flaky"
    store = {}
    pseudo_dirs = [""]
    broken = None
    left = 0
    writes = []

    @classmethod
    def clear(cls):
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        cls.broken, cls.left, cls.writes = None, 0, []

    @classmethod
    def break_at(cls, part, left):
        cls.broken, cls.left = part, left

    @classmethod
    def repair(cls):
        cls.broken = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("flaky://"))

    def put_file(self, lpath, rpath, **kwargs):
        with open(lpath, "rb") as file:
            self._write(self._strip_protocol(rpath), file.read())

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._write(self._strip_protocol(path), value)

    def _write(self, path, data):
        if self.broken is not None and self.broken in path:
            allowed = min(len(data), type(self).left)
            type(self).left -= allowed
            super().pipe_file(path, data[:allowed])
            if allowed < len(data) or not type(self).left:
                raise ConnectionError("the server is away")
        super().pipe_file(path, data)
        self.writes.append(path)


def machines(folder, monkeypatch):
    """Machines, which are folders of local copies; gives what goes to another one."""
    monkeypatch.setattr(lease, "PAUSE", 0.0)
    monkeypatch.setattr(upload, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(upload, "POLL", 0.01)
    Flaky.clear()

    def go(name):
        monkeypatch.setenv("COTJAX_BUCKETS", str(folder / name))
        fetch._fetched.cache_clear()
        return folder / name

    go("here")
    return go


fsspec.register_implementation("flaky", Flaky, clobber=True)


def names(url):
    """Every name in a folder of the bucket."""
    root = Flaky._strip_protocol(url) + "/"
    return {path.removeprefix(root) for path in Flaky.store if path.startswith(root)}


def text(url, name):
    return Flaky.store[f"{Flaky._strip_protocol(url)}/{name}"].getvalue()


def write_step(folder, step, salt=""):
    """A checkpoint as it lies on the disk, there in one piece."""
    half = folder / "checkpoints" / f"{step}.half"
    for name in ("state/d/array", "state/_METADATA", "run/metadata"):
        (half / name).parent.mkdir(parents=True, exist_ok=True)
        (half / name).write_bytes(f"{step} {name} {salt}".encode() * 100)
    write_checksums(half)
    (half / ORBAX).write_text(json.dumps({"commit_timestamp_nsecs": 1}))
    (half / ENDED).touch()
    half.rename(folder / "checkpoints" / str(step))


def write_run(folder, *steps):
    """A run of no training, with checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text("steps = 4\n")
    (folder / "metrics.jsonl").write_text('{"step": 1, "kind": "train"}\n')
    for step in steps:
        write_step(folder, step)
