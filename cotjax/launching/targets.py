"""Where `cotjax launch` can start a run: what each place takes, its file, and its one command."""

import dataclasses
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Callable

from cotjax.config.reading import nearest
from cotjax.errors import InputError
from cotjax.launching import manifests, notebooks, scripts
from cotjax.launching.job import Job
from cotjax.storage import write_whole

_SUFFIX = {"tpu": "a TPU slice such as v5e:4x4", "gpu": "GPUs such as h100:8", "cpu": "cpu:8"}


@dataclasses.dataclass(frozen=True)
class Target:
    """One place.

    Attributes:
      file: in `launch/`.
      fill: writes that file for a job.
      platforms: of topologies that it takes; none if its devices are its own.
      needs: options that must be given.
      takes: options that may be.
      schemes: of buckets.
      tool: what submits it, and where one gets it.
      command: that submits a file.
      site: where a person opens the file instead.
    """

    file: str
    fill: Callable[[Job], str]
    command: Callable[[Job, str], list[str]] | None = None
    site: str = ""
    platforms: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ("gs",)
    tool: tuple[str, str] = ("", "")


TARGETS = {
    "gke": Target(
        "gke.yaml",
        manifests.gke,
        lambda job, path: ["kubectl", "apply", "-f", path],
        platforms=("tpu",),
        needs=("topology", "bucket", "image"),
        takes=("spot",),
        tool=("kubectl", "https://kubernetes.io/docs/tasks/tools"),
    ),
    "tpu-vm": Target(
        "tpu_vm.sh",
        scripts.tpu_vm,
        lambda job, path: ["bash", path],
        platforms=("tpu",),
        needs=("topology", "bucket", "zone"),
        takes=("spot", "queued"),
        tool=("gcloud", "https://cloud.google.com/sdk/docs/install"),
    ),
    "slurm": Target(
        "slurm.sh",
        scripts.slurm,
        lambda job, path: ["sbatch", path],
        platforms=("gpu",),
        needs=("topology",),
        takes=("bucket",),
        schemes=("gs", "s3"),
        tool=("sbatch", "a login node of the cluster has it"),
    ),
    "sky": Target(
        "sky.yaml",
        manifests.sky,
        lambda job, path: ["sky", "launch", "--cluster", job.slug, path],
        platforms=("tpu", "gpu"),
        needs=("topology", "bucket"),
        takes=("spot",),
        schemes=("gs", "s3"),
        tool=("sky", 'pip install "skypilot[gcp]"'),
    ),
    "docker": Target(
        "Dockerfile",
        scripts.docker,
        lambda job, path: ["docker", "build", "--file", path, "--tag", job.image, "."],
        platforms=("tpu", "gpu", "cpu"),
        needs=("topology", "image"),
        tool=("docker", "https://docs.docker.com/engine/install"),
    ),
    "colab": Target(
        "colab.ipynb",
        notebooks.colab,
        site="https://colab.research.google.com",
        takes=("bucket",),
    ),
    "kaggle": Target(
        "kaggle.ipynb",
        notebooks.kaggle,
        site="https://kaggle.com/code",
    ),
}
OPTIONS = ("topology", "bucket", "image", "zone", "spot", "queued")  # that not every target takes


def target_of(name: str) -> Target:
    """A target by its name.

    Raises:
      InputError: there is none; names the nearest.
    """
    known = name.replace("_", "-")
    if known not in TARGETS:
        raise InputError(
            f'cotjax launch {name}: no such target. Did you mean "{nearest(name, TARGETS)}"? '
            f"There are {', '.join(TARGETS)}."
        )
    return TARGETS[known]


def check(name: str, job: Job) -> None:
    """Refuses a job that a target cannot take.

    Raises:
      InputError: an option is missing, or would do nothing there; other devices or buckets.
    """
    target = target_of(name)
    for option in OPTIONS:
        given = bool(getattr(job, option))
        if option in target.needs and not given:
            raise InputError(f"cotjax launch {name}: needs --{option}. {_EXAMPLES[option]}")
        if given and option not in (*target.needs, *target.takes):
            own = "; it takes the devices that it has" if option == "topology" else ""
            raise InputError(f"--{option}: cotjax launch {name} takes none{own}. Leave it out.")
    if job.topology and job.topology.platform not in target.platforms:
        wanted = " or ".join(_SUFFIX[platform] for platform in target.platforms)
        fits = [one for one, t in TARGETS.items() if job.topology.platform in t.platforms]
        raise InputError(
            f"--topology {job.topology.name}: {name} takes {wanted}. These devices are for "
            f"{', '.join(fits)}."
        )
    if job.bucket and job.bucket.scheme not in target.schemes:
        raise InputError(
            f"--bucket {job.bucket.source}: {name} keeps runs in Google Cloud Storage. "
            "Give gs://NAME."
        )


_EXAMPLES = {
    "topology": "Give --topology v5e:4x4, or h100:8.",
    "bucket": "Give --bucket gs://NAME, where the run is kept.",
    "image": "Give --image NAME, of a container that cotjax launch docker builds.",
    "zone": "Give --zone NAME, where the chips are: gcloud compute tpus locations list.",
}


def default_path(name: str, job: Job) -> pathlib.Path:
    """Where a filled file goes: `NAME-gke.yaml` in this folder."""
    return pathlib.Path(f"{job.slug}-{target_of(name).file}")


def submit(name: str, job: Job, path: pathlib.Path, text: str) -> int:
    """Writes the filled file and runs the command that submits it.

    Returns:
      that command's exit status; 0 where a person opens the file.

    Raises:
      InputError: the file cannot be written, or the tool is not here.
    """
    target = target_of(name)
    write_whole(path, text, then="Give another file by --out.")
    if target.command is None:
        print(next_step(name, job, path))
        return 0
    tool, source = target.tool
    if shutil.which(tool) is None:
        raise InputError(
            f"cotjax launch {name}: {tool} is not installed here ({source}). {path} is written; "
            f"where {tool} is, run {next_step(name, job, path)}"
        )
    return subprocess.run(target.command(job, str(path)), check=False).returncode


def next_step(name: str, job: Job, path: pathlib.Path) -> str:
    """The command that submits a file, or where a person opens it."""
    target = target_of(name)
    if target.command is None:
        return f"Open {target.site} and import {path} there."
    return shlex.join(target.command(job, str(path)))
