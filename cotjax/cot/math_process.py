"""A process that compares expressions, ended where one takes too long.

math-verify's own time limit is a signal, which only the main thread can have and which no loop in C
hears. Here the comparison runs in a process of its own: a limit ends the process, in whatever
thread it was asked and whatever it does, and the next comparison begins another.
"""

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from typing import IO

TIME_LIMIT = 5.0  # seconds, of one comparison
START_LIMIT = 120.0  # seconds, until the process has imported what it needs

MORE = 2.0  # seconds beyond its limit after which a comparison ends the process, if nobody has

_CODE = (
    "import json, sys; path, parent, limit = json.loads(sys.argv[1]); sys.path[:] = path; "
    "from cotjax.startup import end_with_parent; end_with_parent(parent); "
    "from cotjax.cot.expressions import serve; serve(limit=limit)"
)


class MathProcess:
    """Compares expressions; safe to use from several threads, which take turns.

    Args:
      limit: seconds that a comparison may take.

    Attributes:
      timeouts: comparisons that took longer.
    """

    def __init__(self, limit: float = TIME_LIMIT) -> None:
        self.limit, self.timeouts = limit, 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._owner = 0

    def equal(self, answer: str, gold: str) -> bool | None:
        """Whether two expressions are the same; None if that took too long.

        Raises:
          RuntimeError: the process does not start.
        """
        with self._lock:
            try:
                line = self._asked(answer, gold) or self._asked(answer, gold)
            except queue.Empty:
                line = ""
            except BaseException:  # Ctrl-C, say: its answer would be taken for the next one's
                self._end()
                raise
            if line:
                return json.loads(line)
            self._end()  # too long, or more memory than it may have
            self.timeouts += 1
            return None

    def _asked(self, answer: str, gold: str) -> str:
        """The line that answers; empty if the process has ended, perhaps before it was asked.

        Raises:
          queue.Empty: none came in time.
        """
        if not self._is_there():
            self._start()
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([answer, gold]) + "\n")
            self._process.stdin.flush()
            if line := self._lines.get(timeout=self.limit):
                return line
        self._end()
        return ""

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def _is_there(self) -> bool:
        """Whether the process waits for a comparison; a fork has none, and one may be ended."""
        if self._process is None or self._owner != os.getpid():
            return False
        if self._process.poll() is None:
            return True
        self._end()
        return False

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps([sys.path, os.getpid(), self.limit + MORE])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._owner, self._lines = os.getpid(), queue.SimpleQueue()
        assert self._process.stdout is not None and self._process.stderr is not None
        told: list[str] = []
        errors = threading.Thread(target=_keep, args=(self._process.stderr, told), daemon=True)
        errors.start()
        arguments = self._process.stdout, self._lines
        threading.Thread(target=_pass_on, args=arguments, daemon=True).start()
        try:
            ready = self._lines.get(timeout=START_LIMIT)
        except queue.Empty:
            ready = ""
        if ready != "ready\n":
            self._end()
            errors.join(timeout=1)
            raise RuntimeError(f"math-verify does not start: {''.join(told[-1:]).strip()}")

    def _end(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # of what it has not read
                self._process.stdin.close()
        self._process = None


def _pass_on(pipe: IO[str], lines: "queue.SimpleQueue[str]") -> None:
    """Gives each line on, and an empty one at the end."""
    with pipe:
        for line in pipe:
            lines.put(line)
    lines.put("")


def _keep(pipe: IO[str], told: list[str]) -> None:
    """Keeps the last lines."""
    with pipe:
        for line in pipe:
            told[:] = [*told[-9:], line]


PROCESS = MathProcess()
atexit.register(PROCESS.close)
