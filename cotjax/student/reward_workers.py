"""A user's reward in processes of its own.

It is foreign code: a call that hangs, ends its process or takes all memory costs that completion
its reward, and nothing else. Python's own objects stay in the training process, as another process
could not find them.
"""

import contextlib
import functools
import multiprocessing
import os
import pickle
import weakref
from collections.abc import Sequence
from concurrent.futures import TimeoutError as Late
from typing import Any

from pebble import ProcessExpired, ProcessPool

from cotjax.config import Plugin, RewardConfig
from cotjax.errors import InputError, PluginError
from cotjax.interfaces import Completion, Record
from cotjax.startup import end_when_stuck, end_with_parent

START = 120.0  # seconds until the first worker has to be there
MORE = 2.0  # seconds beyond its limit after which a call ends its process, if nobody has
GIB = 2**30

_own: Plugin  # of a worker


class RewardWorkers:
    """Processes that call a user's reward, started when there is something to reward.

    Args:
      own: what `reward.function` names; a name, as an object may not be found elsewhere.
      settings: how many processes, and what a call may take.
    """

    def __init__(self, own: Plugin, settings: RewardConfig) -> None:
        self._own, self._settings = own, settings

    def __call__(self, pairs: Sequence[tuple[Completion, Record]]) -> list[Any]:
        """What the function gave for each completion of a record, or the error that stands for it.

        Raises:
          InputError: no process could be started, or none any more.
        """
        pool, limit = self._pool, self._settings.timeout
        try:
            calls = [pool.schedule(_call, args=[*pair], timeout=limit) for pair in pairs]
            pairs_of = zip(calls, pairs, strict=True)
            return [self._result(call, record) for call, (_, record) in pairs_of]
        except RuntimeError as error:  # BrokenProcessPool, and pebble's own
            raise InputError(
                f"{self._own.shown}: its processes end before they are called ({error}). Go on "
                "with --resume, or set reward.workers = 0 to call it in the training process."
            ) from error

    def _result(self, call: Any, record: Record) -> Any:
        try:
            return call.result()
        except PluginError as error:
            return error
        except Late:
            return self._error(
                f"took more than reward.timeout = {self._settings.timeout:g} seconds", record
            )
        except ProcessExpired as error:
            return self._error(f"ended its process with status {error.exitcode}", record)

    def _error(self, what: str, record: Record) -> PluginError:
        return PluginError(f"{self._own.shown} {what}", "", record.id)

    @functools.cached_property
    def _pool(self) -> ProcessPool:
        settings = self._settings
        pool = ProcessPool(
            max_workers=settings.workers,
            initializer=_start,
            initargs=[self._own, settings.memory, settings.timeout, os.getpid()],
            context=multiprocessing.get_context("spawn"),
        )
        weakref.finalize(self, _stop, pool)
        try:
            pool.schedule(os.getpid).result(timeout=START)
        except Exception as error:
            _stop(pool)
            raise InputError(
                f"reward.workers = {settings.workers}: no process for {self._own.shown} could be "
                f"started ({error or type(error).__name__}). Put what your script runs behind if "
                '__name__ == "__main__":, or set reward.workers = 0 to call it in this process.'
            ) from error
        return pool


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()


# In a worker.


def _start(own: Plugin, memory: float, timeout: float, parent: int) -> None:
    """Readies a worker: the function, its limit of memory, and an end with its parent's.

    Args:
      own: what it calls.
      memory: GiB that a call may take beside what is there already.
      timeout: seconds that a call may take.
      parent: the process that it works for.
    """
    global _own
    _own = own
    end_with_parent(parent)
    with contextlib.suppress(InputError):  # its file was changed meanwhile: each call says so
        assert own.found, "it is read before its first call is timed"
    end_when_stuck(timeout + MORE)
    _limit_memory(memory)


def _limit_memory(more: float) -> None:
    """Lets this process take so many GiB more; where the system cannot tell, there is no limit."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return
    limit = taken + int(more * GIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _call(completion: Completion, record: Record) -> Any:
    try:
        gave = _own(completion, record, record=record.id)
    except PluginError:
        raise
    except InputError as error:
        raise PluginError(str(error), "", record.id) from error
    try:
        pickle.dumps(gave)
    except Exception as error:
        raise _own.refuse(gave, "it cannot be sent to another process.", record.id) from error
    return gave
