"""Compares mathematical expressions by math-verify; runs in a process of its own.

`python -c "from cotjax.cot.expressions import serve; serve()"` answers each line
`[answer, gold]` of its input with a line `true` or `false`, and ends with its input or its parent.
See `cotjax.cot.math_process`.
"""

import importlib
import json
import logging
import sys
from typing import Any, TextIO

from cotjax.startup import end_when_stuck

MEMORY = 4 * 2**30  # bytes; an expression may ask for more than a machine has


# What sympy raises on expressions that it cannot read or compare.
_SYMPY_RAISES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError),
    *(RecursionError, TypeError, ValueError),
)


def same_expression(answer: str, gold: str) -> bool:
    r"""Whether two expressions, LaTeX or plain, are equal: numbers, formulas, sets, intervals.

    What cannot be read equals nothing. It may take long, and is not interrupted.

    Example:
      >>> same_expression("x/3", r"\frac{x}{3}"), same_expression(r"\{2, 1\}", "1, 2")
      (True, True)
    """
    library: Any = importlib.import_module("math_verify")
    try:
        sides = [library.parse(f"${text}$", parsing_timeout=None) for text in (gold, answer)]
        return all(sides) and bool(library.verify(*sides, timeout_seconds=None))
    except _SYMPY_RAISES as error:
        logging.getLogger(__name__).debug("no comparison of %r and %r: %r", answer, gold, error)
    return False


def serve(source: TextIO = sys.stdin, target: TextIO = sys.stdout, *, limit: float = 0.0) -> None:
    """Answers line by line until the input ends.

    Args:
      source: of lines.
      target: of the answers.
      limit: seconds after which a comparison ends this process, if nobody has; 0 = never.
    """
    _limit_memory()
    logging.disable(logging.CRITICAL)  # math-verify says that its own time limit is off
    same_expression("1", "1")  # imports everything
    if limit:
        end_when_stuck(limit)
    print("ready", file=target, flush=True)
    for line in source:
        answer, gold = json.loads(line)
        print(json.dumps(same_expression(answer, gold)), file=target, flush=True)


def _limit_memory() -> None:
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows has none
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
