"""A teacher's solutions, kept where they are right: `cotjax rationales --out FILE`.

Every flag of `cotjax train` may be given; those of the section [rationales] choose the writer:

    data     the solutions of the data itself
    model    the student's own kind: model.path, by the rollout engine
    server   any OpenAI-compatible server (rationales.url); answers are kept

The file has GSM8K's layout, so `--data.source=jsonl --data.path=FILE.jsonl` reads it.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.progress import hushed
from cotjax.run.early import check_data, check_model
from cotjax.startup import check_platforms, set_up


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the file and prints what was kept; 0 if it worked, 1 if some are missing, 2 if not."""
    parser = Command("rationales", __doc__, usage="--out FILE [--KEY VALUE …]", takes_keys=True)
    parser.add_argument(
        "--out", metavar="FILE", required=True, type=pathlib.Path, help="JSONL file to write"
    )
    parser.add_output("what was kept as one JSON object")
    known, rest = parser.parse(argv)
    with hushed(known.quiet):
        counts = write_rationales(known.out, rest)
    if known.json:
        named = {name.replace(" ", "_"): count for name, count in counts.items()}
        print(json.dumps({"out": str(known.out), **named}))
    else:
        print(f"{known.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if counts["unanswered"]:
        print(
            "Some questions have no answer yet. The same command requests only those; what was "
            "answered is in rationales.cache.",
            file=sys.stderr,
        )
    return 1 if counts["unanswered"] else 0


def write_rationales(out: pathlib.Path, argv: Sequence[str] = ()) -> dict[str, int]:
    """Collects rationales from the writer, filters them by answer, and writes the right ones.

    Returns:
      questions by what became of them: `kept`, `wrong`, `without steps`, `unanswered`; and
      `cached` answers, `damaged` cache lines, answers that the server `cut off`.

    Raises:
      InputError: a wrong setting, or a server that refuses requests.
    """
    config = configs.load([*argv], tool="rationales")
    check_platforms()
    check_model(config.model.path)
    check_data(config)
    from cotjax.parallel.mesh import run_mesh, use_cpu_cores
    from cotjax.student.load import model_bytes
    from cotjax.student.verify import open_verifier
    from cotjax.teachers.rationales import WRITERS, collect

    use_cpu_cores(model_bytes(config.model.path))
    mesh = run_mesh(config.mesh)
    with WRITERS[config.rationales.writer](config, mesh) as writer:
        rows, counts = collect(writer, open_verifier(config))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}).") from error
    return counts


if __name__ == "__main__":
    set_up()
    sys.exit(main())
