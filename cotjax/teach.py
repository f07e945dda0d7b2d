"""`python -m cotjax.teach --config FILE --out DIR`: what the teachers say, as a store on disk.

Further flags are config keys, as for `cotjax.train`; train with the same ones and
`--distill.store DIR`. A store that was begun is continued.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.errors import InputError
from cotjax.pages import use_large_pages
from cotjax.programs import set_up


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a store and says what it holds; 0 if it worked, 2 if the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m cotjax.teach",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the store")
    known, rest = parser.parse_known_args(argv)
    try:
        print(teach(known.out, ["--stage=distill", *rest]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def teach(out: pathlib.Path, argv: Sequence[str]) -> str:
    """Writes a store; a sentence about it.

    Raises:
      InputError: a wrong setting, or another store in the folder.
    """
    config = configs.load(argv)
    if config.distill.store:
        raise InputError(
            f'distill.store = "{config.distill.store}": the folder to write is --out. '
            "Set distill.store empty."
        )
    from cotjax.parallel.mesh import make_mesh, use_cpu_cores
    from cotjax.stages.speaking import write_store

    use_cpu_cores()
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    done = write_store(config, mesh, out)
    if not done.shards:
        return f"{out} was complete already."
    return (
        f"{out}: {done.shards} shards, {done.positions:,} positions of K = {config.distill.top_k}, "
        f"{done.bytes / done.positions:.1f} bytes each; KL of the whole teacher from the store "
        f"{done.kl:.2e} nats. {done.positions / done.seconds:,.0f} positions/s, "
        f"{done.forward_s / done.seconds:.0%} of the time waiting for the teacher."
    )


if __name__ == "__main__":
    use_large_pages()
    set_up()
    sys.exit(main())
