"""Answers of a server, on disk: a JSON line each, keyed by the hash of its request.

Only one run writes a cache at a time. A line that a crash cut off, or that is damaged, is
counted and kept in a file beside it; the others serve.
"""

import errno
import fcntl
import hashlib
import json
import os
import pathlib
from typing import Any

from cotjax.errors import InputError


def request_key(request: dict[str, Any]) -> str:
    """The hash of everything that decides an answer.

    Example:
      >>> request_key({"a": 1, "b": 2}) == request_key({"b": 2, "a": 1})
      True
    """
    text = json.dumps(request, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerCache:
    """A file of answers, locked while it is open; use it as a context manager.

    Args:
      path: a .jsonl file; made if it is not there.

    Raises:
      InputError: another run has it open, or it cannot be written.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._answers: dict[str, str] = {}
        self.damaged = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder")
            self._lock = path.with_suffix(".lock").open("wb")
        except OSError as error:
            raise InputError(
                f"rationales.cache = {path}: cannot be written ({error.strerror}). "
                "Name another file."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(
                f"rationales.cache = {path}: another run is using it. Wait for that run, or set "
                "rationales.cache to another file."
            ) from error
        self._read(path)
        self._file = path.open("ab", buffering=0)

    def _read(self, path: pathlib.Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        good, bad = [], []
        for line in lines:
            try:
                row = json.loads(line)
                self._answers[row["key"]] = str(row["answer"])
                good.append(line.rstrip(b"\n") + b"\n")
            except (ValueError, KeyError, TypeError):
                bad.append(line.rstrip(b"\n") + b"\n")
        self.damaged = len(bad)
        if lines and (bad or not lines[-1].endswith(b"\n")):
            with path.with_suffix(".damaged").open("ab") as aside:
                aside.writelines(bad)
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(b"".join(good))
            os.replace(temporary, path)  # whole, so that a crash here loses nothing

    def __enter__(self) -> "AnswerCache":
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Unlocks it for other runs."""
        self._file.close()
        self._lock.close()

    def __len__(self) -> int:
        """How many answers it holds."""
        return len(self._answers)

    def get(self, key: str) -> str | None:
        """The answer to a request, None if it was never given."""
        return self._answers.get(key)

    def put(self, key: str, answer: str) -> None:
        """Keeps an answer; it is on the disk when this returns."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
        self._file.write(line.encode())
        os.fsync(self._file.fileno())
        self._answers[key] = answer
