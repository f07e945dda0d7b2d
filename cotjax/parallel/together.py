"""Several processes of one run end together: one that fails says so, one that is silent is missed.

Left alone, JAX lets the others wait five minutes for a process that has raised. Here each has a
thread that asks the coordinator, which the first process runs, every second. They keep in it:

    cotjax/RUN/alive/N     how often process N has looked, or "done"
    cotjax/RUN/failed/N    what N failed of, in one line; or that N is silent, which the first finds

RUN counts the runs of these processes: Python may train several.

A thread cannot look while a call of JAX holds Python's lock, as the wait for others does on a CPU
that is one device alone; then JAX itself ends all, after `HEARTBEAT`.
"""

import atexit
import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from cotjax.errors import InputError, Stopped

LOOK = 1.0  # seconds between two looks
HEARTBEAT = 28  # seconds after which JAX gives a process up, with a dump: only if all else fails
SILENCE = 10.0  # seconds after which a process that no longer looks is given up
GRACE = 3.0  # seconds in which the others may finish a checkpoint that is being written
_ALIVE, _FAILED, _DONE = "alive/", "failed/", "done"
_runs = itertools.count(1)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """A block of a run; if it raises in one process, all end within half a minute.

    The others print which process it was, on which host, and its error. An agreed end
    (`Stopped`) is none. Does not use JAX if this process is alone.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    lookout = Lookout(_client(), jax.process_index(), jax.process_count(), next(_runs))
    lookout.start()
    try:
        yield
    except Stopped:
        lookout.done()
        raise
    except BaseException as error:
        lookout.fail(error)
        raise
    lookout.done()


class Lookout:
    """One process's eye on the others.

    Args:
      client: of the coordinator: has key_value_set and key_value_dir_get.
      number: of this process.
      count: of all.
      run: its number, the same in all.
    """

    def __init__(self, client: Any, number: int, count: int, run: int = 1) -> None:
        self._client, self._number, self._count = client, number, count
        self._keys = f"cotjax/{run}/"
        self._over = threading.Event()
        self._seen: dict[int, tuple[str, float]] = {}  # what each said last, and when

    def start(self) -> None:
        """Begins to look."""
        threading.Thread(target=self._run, name="lookout", daemon=True).start()

    def done(self) -> None:
        """This process is through; the others need not miss it."""
        self._over.set()
        self._try_to_say(_ALIVE, _DONE)

    def fail(self, error: BaseException) -> None:
        """Tells the others, and makes the interpreter's end not wait for them."""
        if isinstance(error, jax.errors.JaxRuntimeError) or "gloo" in str(error).lower():
            # Perhaps only because another is gone; then the thread says so, and ends this one.
            self._over.wait(HEARTBEAT)
        self._over.set()
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._try_to_say(_FAILED, f"Host {socket.gethostname()}: {' '.join(what.split())[:500]}")
        self._try_to_say(_ALIVE, _DONE)
        atexit.register(self._leave, 2 if isinstance(error, InputError) else 1)

    def _leave(self, status: int) -> None:
        """Ends this process without JAX's wait for all; the first lets the others read before."""
        end = time.monotonic() + GRACE + 3 * LOOK
        while self._number == 0 and time.monotonic() < end and not self._all_know():
            time.sleep(LOOK / 4)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def _run(self) -> None:
        looks = 0
        while not self._over.wait(LOOK):
            looks += 1
            try:
                self._say(_ALIVE, str(looks))
                self._look()
            except jax.errors.JaxRuntimeError:  # the coordinator is gone, and with it the first
                if not self._over.is_set():
                    self._end(0, "It no longer answers; its own output may say why.")

    def _look(self) -> None:
        failed = self._read(_FAILED)
        silent = self._silent() if self._number == 0 else []
        for number in silent:
            text = f"It is silent for {SILENCE:.0f} s; its own output may say why."
            self._client.key_value_set(f"{self._keys}{_FAILED}{number}", text, True)
            failed[str(number)] = text
        for number, text in sorted(failed.items()):
            if number != str(self._number) and not self._over.is_set():
                self._end(int(number), text)

    def _silent(self) -> list[int]:
        """The processes that have not looked for `SILENCE`."""
        now, alive = time.monotonic(), self._read(_ALIVE)
        for number in range(self._count):
            text = alive.get(str(number), "")  # one may be gone before its first look
            if number not in self._seen or self._seen[number][0] != text:
                self._seen[number] = text, now
        return [
            number
            for number, (text, when) in self._seen.items()
            if text != _DONE and now - when > SILENCE
        ]

    def _end(self, number: int, text: str) -> None:
        """Says which process failed, and ends this one."""
        print(
            f"error: process {number} of {self._count} failed, so all end. {text}",
            file=sys.stderr,
            flush=True,
        )
        self._over.wait(GRACE)
        self._try_to_say(_ALIVE, _DONE)
        self._leave(1)

    def _all_know(self) -> bool:
        done = {number for number, text in self._read(_ALIVE).items() if text == _DONE}
        return len(done | self._read(_FAILED).keys()) == self._count

    def _say(self, key: str, text: str) -> None:
        self._client.key_value_set(f"{self._keys}{key}{self._number}", text, True)

    def _try_to_say(self, key: str, text: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the coordinator may be gone
            self._say(key, text)

    def _read(self, key: str) -> dict[str, str]:
        found = self._client.key_value_dir_get(self._keys + key)
        return {name.rsplit("/", 1)[1]: text for name, text in found}


def _client() -> Any:
    """The coordinator's client; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client
