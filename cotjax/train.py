"""`cotjax train --stage=grpo`: one run, from a config to a report.

Every flag is a config key (`--help` lists them); `--config FILE.toml` is read first.
"""

import os
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.config.command import VERSION, one_line_errors
from cotjax.config.command_help import asks_for_help, train_help
from cotjax.run import run
from cotjax.startup import STARTED, set_up, use_large_pages


@one_line_errors
def main(argv: Sequence[str] | None = None, *, began: float | None = None) -> int:
    """Runs a stage or a list of stages.

    Args:
      argv: flags; None reads the process's own.
      began: when the run's clock started, as `time.monotonic` counts; None is now.

    Returns:
      0 if it ended, 2 if the input was wrong, 1 if something else was (error.txt of the run says
      what), 143 or 130 if SIGTERM or SIGINT stopped it.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if asks_for_help(argv):
        print(train_help(argv))
    elif "--version" in argv:
        print(VERSION)
    else:
        run(configs.load(argv), began=began)
    return 0


if __name__ == "__main__":
    if not (asks_for_help(sys.argv[1:]) or "--version" in sys.argv):
        use_large_pages()
    set_up()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(began=STARTED))
