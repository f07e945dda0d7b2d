"""The scripts of TPU VMs and Slurm and the Dockerfile, filled in."""

import shlex

from cotjax.errors import InputError
from cotjax.launching.job import Job, words
from cotjax.launching.templates import assigned, template, told


def tpu_vm(job: Job) -> str:
    """A script of gcloud: makes the VMs, and runs the job on all of them."""
    hosts, bucket = job.hosts, job.bucket
    assert bucket is not None  # see targets
    yes = {True: "yes", False: "no"}
    filled = assigned(
        template("tpu_vm.sh"),
        {
            "NAME": shlex.quote(job.slug),
            "RUN": shlex.quote(job.name),
            "ZONE": shlex.quote(job.zone),
            "ACCELERATOR": hosts.accelerator,
            "RUNTIME": hosts.runtime,
            "SLICES": str(hosts.slices),
            "HOSTS": str(hosts.all_hosts),
            "SPOT": yes[job.spot],
            "QUEUED": yes[job.queued or hosts.slices > 1],
            "CONFIG": shlex.quote(job.sent_config),
            "BUCKET": shlex.quote(bucket.name),
            "OUTPUT": shlex.quote(bucket.runs("bucket")),
            "CACHE": shlex.quote(bucket.compiled("bucket")),
            "FLAGS": words(job.flags),
        },
    )
    return told(filled, job.about)


def slurm(job: Job) -> str:
    """A batch script: a process per GPU, as JAX expects under Slurm."""
    hosts, bucket = job.hosts, job.bucket
    kept = f"{bucket.source}/{bucket.folder}".rstrip("/") if bucket else ""
    options = {
        "job-name": job.slug,
        "nodes": str(hosts.hosts),
        "ntasks-per-node": str(hosts.chips),
        "gpus-per-node": str(hosts.chips),
    }
    filled = assigned(template("slurm.sh"), options, before="#SBATCH --")
    values = {
        "CONFIG": shlex.quote(job.config),
        "NAME": shlex.quote(job.name),
        "BUCKET": shlex.quote(kept),
        "FLAGS": words(job.flags),
    }
    return told(assigned(filled, values), job.about)


def docker(job: Job) -> str:
    """A Dockerfile whose image trains the config.

    Raises:
      InputError: the config lies outside of this folder; or flags, which belong to `docker run`.
    """
    if job.flags:
        raise InputError(
            f"{job.flags[0]}: an image trains its config as it is. Give further settings to "
            f"docker run {job.image} train --config /job/run.toml {shlex.join(job.flags)}."
        )
    config = job.sent_config
    if any(letter.isspace() for letter in config):
        raise InputError(f"--config {config}: Docker copies a path without spaces. Rename it.")
    values = {"BACKEND": job.backend, "CONFIG": config}
    return told(assigned(template("Dockerfile"), values, before="ARG "), job.about)
