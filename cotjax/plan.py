"""What a run needs of devices that are not here: `cotjax plan --config FILE --topology v5e:4x4`.

It compiles the run's own programs for them, without weights, and says what lies in memory, what is
computed and sent, how long it takes at least, and whether it fits. Exit status 3: it does not fit.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Callable, Sequence

from cotjax import config as configs
from cotjax.config import Config, name_of
from cotjax.config.command import Command, one_line_errors
from cotjax.errors import InputError
from cotjax.planning.topologies import Topology, parse_topology, set_up
from cotjax.run import early

TOO_SMALL = 3  # exit status


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the plan; 0 if the run fits, 3 if it does not, 2 if the input was wrong."""
    args, flags = _command().parse(argv)
    topology = parse_topology(args.topology)
    price = None if args.price is None else _price(args.price)
    if args.write and not args.search:
        raise InputError("--write: writes what a search finds. Give --search too.")
    if args.estimate and args.exact:
        raise InputError("--exact: compiles every layer, and --estimate none. Give one of them.")
    config = configs.load([*(["--config", args.config] if args.config else []), *flags])
    set_up(topology)  # JAX is imported below

    def told(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if args.search:
        config, rows = _search(config, topology, told, args)
        if not args.json:
            print("\n".join(rows))
        if args.write:
            _write(args.write, config)
    from cotjax.planning import show
    from cotjax.planning.run_plan import plan_run

    stages = _stages(config, args.only, told)
    plan = plan_run(
        stages, topology, price=price, exact=args.exact, estimate=args.estimate, told=told
    )
    print(json.dumps(show.as_json(plan)) if args.json else "\n".join(show.lines(plan)))
    return 0 if plan.fits else TOO_SMALL


def _command() -> Command:
    command = Command(
        "plan", __doc__, usage="--topology NAME [--config FILE.toml] [--KEY VALUE …]",
        takes_keys=True,
    )  # fmt: skip
    add = command.add_argument
    add("--config", metavar="FILE", help="TOML file of the run")
    add(
        "--topology", metavar="NAME", required=True,
        help="v5e:4x4, v5e:4x4*2 (two slices), v5p-8, h100:8, cpu:8",
    )  # fmt: skip
    add("--only", metavar="STAGE", default="", help="of a list of stages")
    add("--price", metavar="X", type=float, help="of a chip for an hour")
    add("--search", action="store_true", help="look for the fastest settings that fit")
    add("--write", metavar="FILE", type=pathlib.Path, help="TOML file for what was found")
    add("--exact", action="store_true", help="compile every layer of samplers; minutes")
    add("--estimate", action="store_true", help="compile nothing, count from equations; seconds")
    add("--json", action="store_true", help="print JSON")
    return command


def _price(price: float) -> float:
    if not (math.isfinite(price) and price >= 0):
        raise InputError(f"--price = {price:g}: needs a number that is not below 0.")
    return price


def _stages(config: Config, only: str, told: Callable[[str], None]) -> list[Config]:
    """The stages to plan, each with data that is there."""
    from cotjax.planning.opening import stages_of

    found = [own for own in stages_of(config) if only in ("", name_of(own.stage))]
    if not found:
        names = ", ".join(dict.fromkeys(name_of(own.stage) for own in stages_of(config)))
        raise InputError(f"--only {only}: no such stage. Give one of {names}.")
    return [_with_data(own, told) for own in found]


def _with_data(config: Config, told: Callable[[str], None]) -> Config:
    """The stage with its data, or with the built-in problems where it is not here."""
    from cotjax.planning.opening import with_builtin_data

    try:
        early.check_data(config)
    except InputError as error:
        told(f"note: {error} It is planned with the built-in problems instead.")
        return with_builtin_data(config)
    return config


def _search(
    config: Config, topology: Topology, told: Callable[[str], None], args: argparse.Namespace
) -> tuple[Config, list[str]]:
    """The best config, and what to say of it."""
    from cotjax.planning import show
    from cotjax.planning.run_plan import chip_of, plan_run
    from cotjax.planning.search import search
    from cotjax.planning.topologies import devices_of

    devices, chip = devices_of(topology), chip_of(topology)

    def measure(own: Config) -> tuple[int, float]:
        stages = _stages(own, args.only, lambda _: None)
        plan = plan_run(
            stages, topology, chip=chip, devices=devices, steps_only=True, estimate=args.estimate
        )
        return plan.short, sum(stage.steps * stage.step_seconds for stage in plan.stages)

    first, best = search(config, measure, devices=topology.size, slices=topology.slices, told=told)
    return best.config, list(show.compared(first, best))


def _write(path: pathlib.Path, config: Config) -> None:
    try:
        path.write_text(configs.to_toml(config), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--write {path}: cannot write there ({error.strerror}).") from error


if __name__ == "__main__":
    sys.exit(main())
