"""`cotjax train --stage=grpo`: one run, from a config to a report.

Every flag but a few is a config key (`--help` lists them); `--config FILE.toml` is read first.
Those few say how a run speaks: `--explain` says what it would do and trains nothing, `--quiet`
prints warnings, alarms and the last line, `--json` one JSON object a line, `--profile-start` where
the time went until the first step.
"""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from cotjax.startup import STARTED, collect_later, set_up, use_large_pages

if __name__ == "__main__":
    use_large_pages()  # before the imports, which a process that starts anew would repeat

from rich.console import Console

from cotjax import config as configs
from cotjax.config.command import VERSION, one_line_errors
from cotjax.config.command_help import asks_for_help, train_help
from cotjax.config.flags import key_of
from cotjax.errors import InputError
from cotjax.run import run
from cotjax.run.early import check_run
from cotjax.run.explain import explain
from cotjax.start_profile import profiling, started

WORDS = (
    "--explain",
    "--quiet",
    "--json",
    "--profile-start",
)  # how a run speaks, which is no setting of it


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
        words, argv = take_words(argv)
        config = configs.load(argv)
        if "explain" in words:
            _explain(config, as_json="json" in words)
        else:
            how = "json" if "json" in words else "quiet" if "quiet" in words else "text"
            with profiling(sys.stderr) if "profile-start" in words else contextlib.nullcontext():
                started("settings")
                run(config, began=began, how=how)
    return 0


def take_words(argv: Sequence[str]) -> tuple[set[str], list[str]]:
    """The flags among words that are no keys and take no value, and all other words.

    Raises:
      InputError: a flag that is neither, or two that exclude each other.
    """
    found = {word.removeprefix("--") for word in argv if word in WORDS}
    if "quiet" in found and (others := found & {"explain", "json"}):
        (other, *_) = sorted(others)
        raise InputError(f"--quiet: --{other} says something else. Leave one of them out.")
    if {"explain", "profile-start"} <= found:
        raise InputError("--profile-start: --explain trains nothing. Leave one of them out.")
    rest = [word for word in argv if word not in WORDS]
    for word in rest:
        if word.startswith("--"):
            key_of(word.partition("=")[0], [name.removeprefix("--") for name in WORDS])
    return found, rest


def _explain(config: configs.Config, *, as_json: bool) -> None:
    """Prints what a run would do, once it is known that it could begin."""
    folder = pathlib.Path(config.output) / config.name
    configs.check_plugins(config)
    check_run(config, folder, free=False)
    summary = explain(config, folder, alone=True)
    if as_json:
        print(json.dumps({"event": "start", **summary.about}))
    else:
        summary.show(Console(highlight=False, markup=False, force_jupyter=False))


if __name__ == "__main__":
    set_up()
    collect_later()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(began=STARTED))
