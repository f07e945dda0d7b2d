"""`python -m cotjax.train --stage=grpo`: one run, from a config to a report.

Every flag is a config key (`--help` lists them); `--config FILE.toml` is read first.
"""

import os
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.errors import InputError
from cotjax.run import run
from cotjax.startup import set_up, use_large_pages


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a stage; 0 if it ended, 2 if the input was wrong."""
    try:
        run(configs.load(argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    use_large_pages()
    set_up()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
