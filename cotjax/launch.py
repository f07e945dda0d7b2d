"""Starts a run on other machines: fills in the file of launch/ for a target, and submits it."""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

from cotjax import config as configs
from cotjax.config import Config, stage_configs
from cotjax.config.command import Command, one_line_errors
from cotjax.config.reading import read_toml
from cotjax.errors import InputError
from cotjax.launching.bucket import parse_bucket
from cotjax.launching.job import Job
from cotjax.launching.targets import TARGETS, check, default_path, next_step, submit, target_of
from cotjax.planning.machines import machines_of
from cotjax.planning.topologies import mesh_sizes, parse_topology

# Settings that a launched run's place decides.
_DECIDED = {
    "--output": "a launched run is kept where its target keeps it",
    "--resume": "a launched run resumes by itself if its folder is there",
}


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Fills a file in and submits it.

    Returns:
      0, the status of the command that submits it, or 2 if the input was wrong.
    """
    args, flags = _command().parse(argv)
    target = target_of(args.target)
    name = args.target.replace("_", "-")
    job, stages = _job(args, tuple(flags))
    check(name, job)
    _check_processes(name, job, stages)
    text = target.fill(job)
    path = args.out or default_path(name, job)
    if not args.dry_run:
        return submit(name, job, path, text)
    print(text, end="")
    print(f"This is {path}. Without --dry-run: {next_step(name, job, path)}", file=sys.stderr)
    if job.topology:
        asked = ["--config", job.config, "--topology", job.topology.name, *job.flags]
        print(f"Whether it fits: cotjax plan {shlex.join(asked)}", file=sys.stderr)
    return 0


def _command() -> Command:
    command = Command(
        "launch", __doc__, usage="TARGET --config FILE [--topology NAME] [--KEY VALUE …]",
        takes_keys=True,
    )  # fmt: skip
    add = command.add_argument
    add("target", metavar="TARGET", help=", ".join(TARGETS))
    add("--config", metavar="FILE", help="TOML file of the run")
    add("--topology", metavar="NAME", help="devices, as cotjax plan takes them")
    add("--bucket", metavar="URL", help="where the run is kept: gs://NAME[/FOLDER]")
    add("--name", metavar="NAME", help="of the run (default: the file's)")
    add("--image", metavar="NAME", help="of the container (gke, docker)")
    add("--zone", metavar="NAME", help="of Google Cloud (tpu-vm)")
    add("--spot", action="store_true", help="machines that may be taken away")
    add("--queued", action="store_true", help="wait for free chips (tpu-vm)")
    add("--out", metavar="FILE", type=pathlib.Path, help="where the filled file goes")
    add("--dry-run", action="store_true", help="print it, submit nothing")
    return command


def _check_processes(name: str, job: Job, stages: Sequence[Config]) -> None:
    """Refuses devices that only sample where several processes would start.

    Raises:
      InputError: see above.
    """
    if job.topology is None or name not in ("gke", "tpu-vm", "sky", "slurm"):
        return
    count = job.hosts.all_hosts * (job.hosts.chips if name == "slurm" else 1)
    for own in stages:
        if own.mesh.rollout_devices and count > 1:
            raise InputError(
                f"mesh.rollout_devices = {own.mesh.rollout_devices}: {name} starts {count} "
                f"processes on {job.topology.name}, and parameters go from device to device within "
                'one. Set mesh.rollout_devices = 0, and mesh.rollout = "tensor=N" for axes of '
                "their own."
            )


def _job(args: argparse.Namespace, flags: tuple[str, ...]) -> tuple[Job, list[Config]]:
    if not args.config:
        raise InputError("cotjax launch: needs --config FILE, the TOML file of the run.")
    for word in flags:
        key = word.partition("=")[0]
        if key in _DECIDED:
            raise InputError(f"{key}: {_DECIDED[key]}. Leave it out.")
    table = read_toml(args.config)
    if table.get("resume"):
        raise InputError(
            f"--config {args.config}: resume = true: {_DECIDED['--resume']}. Remove it."
        )
    name = args.name or str(table.get("name") or pathlib.Path(args.config).stem)
    config = configs.load(["--config", args.config, f"--name={name}", *flags])
    topology = parse_topology(args.topology) if args.topology else None
    stages = _stages(config)
    if topology:
        for own in stages:
            mesh_sizes(topology, own.mesh)
    job = Job(
        config=args.config,
        text=pathlib.Path(args.config).read_text("utf-8"),
        name=name,
        flags=flags,
        topology=topology,
        machines=machines_of(topology) if topology else None,
        bucket=parse_bucket(args.bucket) if args.bucket else None,
        image=args.image or "",
        zone=args.zone or "",
        spot=args.spot,
        queued=args.queued,
    )
    return job, stages


def _stages(config: Config) -> list[Config]:
    return [own for _, own in stage_configs(config)] if config.stages else [config]


if __name__ == "__main__":
    sys.exit(main())
