"""One of several processes that meet until one of them has an accident.

python together_worker.py NUMBER COUNT PORT ACCIDENT WAITS

WAITS is "free" where the others wait as for an accelerator, with Python's lock released, and
"held" where they wait in a small program of a CPU, which keeps it.
"""

import os
import signal
import sys
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

from cotjax.config.command import one_line_errors
from cotjax.errors import InputError
from cotjax.parallel import processes, together


def accident(kind):
    if kind == "raise":
        raise ValueError("the data is gone")
    if kind == "input":
        raise InputError("data.path: no such file.")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)


@one_line_errors
def main():
    number, count, port, kind, waits = sys.argv[1:]
    os.environ["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
    os.environ["JAX_NUM_PROCESSES"], os.environ["JAX_PROCESS_ID"] = count, number
    processes.join()
    victim = 0 if kind == "first" else int(count) - 1
    with together.ending_together():
        for step in range(4 if kind == "none" else 200):
            if step == 2 and int(number) == victim:
                print("accident", time.time(), flush=True)
                accident("raise" if kind == "first" else kind)
            if waits == "held" or step < 2:
                multihost_utils.process_allgather(np.ones(2))
            time.sleep(0.2)
    print("through", jax.process_index(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
