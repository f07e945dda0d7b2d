"""Seconds from `python -m cotjax.generate` to its first letter and to its end, as a person waits.

`python benchmarks/first_letter.py tiny smollm2-135m [--new 128] [--repeats 5]`

The first run of a model has an empty compilation cache of its own, those that follow find it full.
Where other programs take turns with it, the processor's seconds until the first letter, of all
cores together, say more than those that pass.
"""

import argparse
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

COMMAND = (sys.executable, "-m", "cotjax.generate")
QUESTION = "A farm has 3 cats and 4 hens. How many legs are there?"


def timed(model: str, new: int, cache: str) -> tuple[float, float, float]:
    """Seconds to the first letter, the processor's of it, and to the end of the process."""
    flags = ["--checkpoint", model, "--max-new-tokens", str(new), QUESTION]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
    )
    assert process.stdout is not None
    letter = process.stdout.read(1)
    first, used = time.perf_counter() - began, processor_seconds(process.pid)
    _, said = process.communicate()
    if process.returncode or not letter:
        raise SystemExit(f"{model}: no letter came.\n{said.decode()}")
    return first, used, time.perf_counter() - began


def processor_seconds(process: int) -> float:
    """What a process has used so far; known on Linux."""
    try:
        fields = pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="what --checkpoint takes")
    parser.add_argument("--new", type=int, default=128, help="tokens at most")
    parser.add_argument("--repeats", type=int, default=5, help="runs with a full cache")
    arguments = parser.parse_args()
    columns = "first letter | processor until then | end"
    print(f"| model | empty cache: {columns} | full cache: {columns} |")
    print(f"|---|{'---:|' * 6}")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as cache:
            # Programs as small as these are kept, as cotjax.startup keeps them.
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            runs = [timed(model, arguments.new, cache) for _ in range(1 + arguments.repeats)]
        cold, warm = runs[0], [statistics.median(each) for each in zip(*runs[1:], strict=True)]
        print(f"| {model} | " + " | ".join(f"{each:.1f} s" for each in (*cold, *warm)) + " |")


if __name__ == "__main__":
    main()
