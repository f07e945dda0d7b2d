"""Teachers' top-K logits on disk: `cotjax cache-logits --config FILE --out DIR`.

Further flags are config keys, as for `cotjax train`; train with the same ones and
`--teachers.cache DIR`. A cache that was begun is continued.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cotjax import config as configs
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.progress import hushed
from cotjax.run.early import check_data, check_model, check_teachers
from cotjax.startup import check_platforms, set_up, use_large_pages

if TYPE_CHECKING:
    from cotjax.curriculum.cache_logits import Written


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes a cache and prints what it holds; 0 if it worked, 2 if the input was wrong."""
    parser = Command("cache-logits", __doc__, usage="--out DIR [--KEY VALUE …]", takes_keys=True)
    parser.add_argument(
        "--out", metavar="DIR", type=pathlib.Path, required=True, help="folder of the cache"
    )
    parser.add_output("what was written as one JSON object")
    known, rest = parser.parse(argv)
    with hushed(known.quiet):
        config, written = write_cache(known.out, ["--stage=distill", *rest])
    if known.json:
        print(json.dumps({"out": str(known.out), **dataclasses.asdict(written)}))
    else:
        print(_sentence(known.out, config, written))
    return 0


def write_cache(out: pathlib.Path, argv: Sequence[str]) -> tuple[configs.Config, "Written"]:
    """Writes a cache; its config, and what it holds.

    Raises:
      InputError: a wrong setting, or another cache in the folder.
    """
    config = configs.load(argv)
    if config.teachers.cache:
        raise InputError(
            f'teachers.cache = "{config.teachers.cache}": the folder to write is --out. '
            "Set teachers.cache empty."
        )
    check_platforms()
    check_model(config.model.path)
    check_data(config)
    check_teachers(config)
    from cotjax.curriculum.cache_logits import cache_logits
    from cotjax.parallel.mesh import run_mesh, use_cpu_cores

    use_cpu_cores()
    mesh = run_mesh(config.mesh)
    return config, cache_logits(config, mesh, out)


def _sentence(out: pathlib.Path, config: configs.Config, done: "Written") -> str:
    if not done.shards:
        return f"{out} was complete already."
    return (
        f"{out}: {done.shards} shards, {done.positions:,} positions of "
        f"K = {config.teachers.top_k}, {done.bytes / done.positions:.1f} bytes each; "
        f"KL of the whole teacher from the cache {done.kl:.2e} nats. "
        f"{done.positions / done.seconds:,.0f} positions/s, "
        f"{done.forward_s / done.seconds:.0%} of the time waiting for the teacher."
    )


if __name__ == "__main__":
    use_large_pages()
    set_up()
    sys.exit(main())
