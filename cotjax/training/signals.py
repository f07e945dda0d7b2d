"""SIGTERM and SIGINT: the first lets a run save itself and end, the second ends it at once.

SIGUSR1 is a notice that a scheduler will take the machine away: the run ends likewise, without a
time limit of its own, and a SIGTERM that follows is the first.

A thread of its own hears them, as the main one may be inside a program that takes long.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from cotjax.errors import Stopped
from cotjax.progress import show_cursor

SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTICE = signal.SIGUSR1  # as of Slurm's --signal=USR1@120


class StopSignals:
    """Listens for signals while it is entered; before that, and in another thread, it hears none.

    Args:
      grace: seconds from the first signal to the end of the process, whatever it does then.
      tell: is given a sentence when the first one comes.

    Attributes:
      asked: the number of the first signal, SIGTERM for a notice; 0 if none came.
    """

    def __init__(self, grace: float = 30.0, tell: Callable[[str], None] = lambda text: None):
        self.asked = 0
        self._grace, self._tell = grace, tell
        self._may_raise = False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python tells signals to the main thread alone
        hears, speaks = os.pipe()
        os.set_blocking(speaks, False)
        before = signal.set_wakeup_fd(speaks, warn_on_full_buffer=False)
        for number in (*SIGNALS, NOTICE):
            self._undo.callback(signal.signal, number, signal.signal(number, self._raise))
        ear = threading.Thread(target=self._listen, args=(hears,), name="signals", daemon=True)
        ear.start()

        def end() -> None:
            signal.set_wakeup_fd(before)
            os.write(speaks, b"\0")  # no signal's number: the thread ends
            ear.join()
            os.close(hears)
            os.close(speaks)

        self._undo.callback(end)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a signal breaks off, since what it does is done again after `--resume`.

        Several processes of a run go through it whole: they agree in `check` alone.

        Raises:
          Stopped: a signal came.
        """
        if jax.process_count() > 1:
            yield
            return
        self._may_raise = True
        try:
            if self.asked:
                raise Stopped(self.asked)
            yield
        finally:
            self._may_raise = False

    def check(self) -> None:
        """Ends a run between two steps if a signal came, to this process or to another of the run.

        Raises:
          Stopped: it did.
        """
        asked = self.asked
        if jax.process_count() > 1:
            asked = int(multihost_utils.process_allgather(jax.numpy.int32(asked)).max())
        if asked:
            raise Stopped(asked)

    def _raise(self, number: int, frame: FrameType | None) -> Any:
        self.asked = self.asked or _as_asked(number)
        if self._may_raise:
            self._may_raise = False
            raise Stopped(self.asked)

    def _listen(self, hears: int) -> None:
        heard = 0
        while (byte := os.read(hears, 1)) != b"\0":
            number = byte[0]
            if number == NOTICE:
                self.asked = self.asked or _as_asked(number)
                self._tell("SIGUSR1: the run finishes its step, saves it and ends")
            if number not in SIGNALS:
                continue
            heard += 1
            if heard > 1:
                end_process(number)
            self.asked = self.asked or number
            name = signal.Signals(number).name
            self._tell(
                f"{name}: the run finishes its step, saves it and ends, within {self._grace:.0f} s "
                "(checkpoint.grace); once more ends it at once"
            )
            timer = threading.Timer(self._grace, end_process, [number])
            timer.daemon = True
            timer.start()
            self._undo.callback(timer.cancel)


def _as_asked(number: int) -> int:
    return signal.SIGTERM if number == NOTICE else number


def end_process(number: int) -> None:
    """Ends this process and its workers at once, with the status of a signal."""
    show_cursor()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)
