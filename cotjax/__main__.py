"""`cotjax COMMAND …` is `python -m cotjax.COMMAND …`; alone it lists the commands."""

import runpy
import sys
import textwrap
from collections.abc import Sequence

from cotjax.config.command import VERSION, one_line_errors, width
from cotjax.config.reading import likely
from cotjax.errors import InputError

COMMANDS = {
    "train": "train a student: one stage, or a list of stages",
    "evaluate": "accuracy and length of a run or a model on held-out problems",
    "lm-eval": "tasks of EleutherAI's evaluation harness",
    "generate": "let a run or a model answer a question",
    "export": "write a run's student as a Hugging Face folder",
    "doctor": "check this machine, settings, files and models, and train a step",
    "plan": "whether a run fits devices, how long it takes, what it costs",
    "launch": "start a run elsewhere: GKE, TPU VMs, Slurm, SkyPilot, a notebook",
    "report": "write the page of a run folder again, or of several runs",
    "compare": "two runs or more on the same questions, with paired tests",
    "replay": "take a step of a run again, and say what is equal",
    "experiment": "run arms × seeds from a file, and compare them",
    "rationales": "let a teacher write solutions, and keep the right ones",
    "cache-logits": "write teachers' top-K logits to disk, to distil from them later",
}

MOVED = {"teach": "cache-logits"}  # commands of earlier versions


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names.

    Returns:
      0 after the list or the version, 2 if there is no such command.

    Raises:
      SystemExit: with the command's own status.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    name = words[0] if words else "--help"
    if name in ("--help", "-h", "help"):
        print(listed())
        return 0
    if name == "--version":
        print(VERSION)
        return 0
    known = name.replace("_", "-")
    if known in MOVED:
        raise InputError(f"cotjax {name}: is now cotjax {MOVED[known]}.")
    if known not in COMMANDS:
        raise InputError(
            f"cotjax {name}: no such command.{likely(name, COMMANDS)} cotjax --help lists them."
        )
    sys.argv[1:] = words[1:]
    runpy.run_module(f"cotjax.{known.replace('-', '_')}", run_name="__main__", alter_sys=True)
    return 0


def listed() -> str:
    """The commands, one line each."""
    column = max(map(len, COMMANDS)) + 4
    lines: list[str] = []
    for name, text in COMMANDS.items():
        first = f"  {name}".ljust(column)
        lines += textwrap.wrap(text, width(), initial_indent=first, subsequent_indent=" " * column)
    return "\n".join(
        [
            "Usage: cotjax COMMAND …",
            "Distils chain-of-thought reasoning into a small student, in JAX.",
            "",
            *lines,
            "",
            *textwrap.wrap(
                "cotjax COMMAND --help says more; cotjax --version says which one this is.", width()
            ),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
