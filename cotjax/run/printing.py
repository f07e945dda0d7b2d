"""Which printer a run has: for a terminal, for a log, for programs, or one that says little."""

import sys
from typing import Literal

from rich.console import Console

from cotjax.parallel import processes
from cotjax.run.folder import console
from cotjax.training.live import LivePrinter
from cotjax.training.printer import JsonPrinter, Printer, QuietPrinter

How = Literal["text", "quiet", "json"]


def open_printer(how: How = "text") -> Printer:
    """The printer of a run, of the first process; the others say nothing.

    Args:
      how: text (a table that changes in place on a terminal, plain lines elsewhere), quiet
        (warnings, alarms and the last line), or json (one object a line).
    """
    if not processes.is_first():
        return QuietPrinter(Console(quiet=True))
    if how == "json":
        return JsonPrinter()
    if how == "quiet":
        return QuietPrinter(console())
    own = Console(highlight=False, markup=False, force_jupyter=False)
    # FORCE_COLOR makes a terminal of anything; only a real one can be drawn on.
    return LivePrinter(own) if own.is_interactive and sys.stdout.isatty() else Printer(console())
