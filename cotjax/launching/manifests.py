"""The YAML of GKE and SkyPilot, filled in."""

import shlex
from typing import Any

import yaml

from cotjax.errors import InputError
from cotjax.launching.bucket import Bucket
from cotjax.launching.job import Job
from cotjax.launching.templates import dumped, header, template, told

MOUNT = "/bucket"  # where pods and machines see the bucket
CACHE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own
_REQUESTED = 0.75  # of a host's memory: the rest is the system's and the bucket's driver's
_CONFIG = "/job/run.toml"


def gke(job: Job) -> str:
    """A JobSet: a job per slice, a pod per host.

    Raises:
      InputError: several slices of one host, which GKE does not join.
    """
    hosts, bucket = job.hosts, _bucket(job)
    if hosts.slices > 1 and hosts.hosts == 1:
        raise InputError(
            f"--topology {job.devices.name}: GKE joins slices of several hosts only, and one of "
            f"{job.devices.shape} is a single host. Give larger slices, or one."
        )
    text = template("gke.yaml")
    config, jobset = yaml.safe_load_all(text)
    config["metadata"]["name"] = jobset["metadata"]["name"] = job.slug
    config["data"] = {"run.toml": job.text}
    slice_ = jobset["spec"]["replicatedJobs"][0]
    slice_["replicas"] = hosts.slices
    spec = slice_["template"]["spec"]
    spec["completions"] = spec["parallelism"] = hosts.hosts
    pod = spec["template"]["spec"]
    pod["nodeSelector"] = {
        "cloud.google.com/gke-tpu-accelerator": hosts.label,
        "cloud.google.com/gke-tpu-topology": job.devices.shape,
    } | ({"cloud.google.com/gke-spot": "true"} if job.spot else {})
    _fill_container(pod["containers"][0], job, bucket)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    volumes["job"]["configMap"]["name"] = job.slug
    volumes["bucket"]["csi"]["volumeAttributes"]["bucketName"] = bucket.name
    return dumped([config, jobset], told(header(text), job.about))


def _fill_container(container: dict[str, Any], job: Job, bucket: Bucket) -> None:
    hosts, output = job.hosts, bucket.runs(MOUNT)
    container["image"] = job.image
    script = container["args"][0]
    container["args"] = [script, "train", *job.arguments(_CONFIG, output)[2:]]
    values = {
        "RUN": f"{output}/{job.name}",
        "JAX_NUM_PROCESSES": str(hosts.all_hosts),
        CACHE: bucket.compiled(MOUNT),
        "PYTHONUNBUFFERED": "1",
    }
    container["env"] = [{"name": name, "value": value} for name, value in values.items()]
    container["resources"] = {
        "requests": {"memory": f"{int(hosts.memory * _REQUESTED)}G"},
        "limits": {"google.com/tpu": hosts.chips},
    }


def sky(job: Job) -> str:
    """A task of SkyPilot: one TPU slice, or nodes with GPUs.

    Raises:
      InputError: several slices, or several hosts that are to write to one bucket of S3.
    """
    hosts, bucket = job.hosts, _bucket(job)
    if hosts.slices > 1:
        raise InputError(
            f"--topology {job.devices.name}: SkyPilot rents one slice. Leave *{hosts.slices} out, "
            "or launch on gke."
        )
    if bucket.scheme == "s3" and hosts.hosts > 1:
        raise InputError(
            f"--bucket {bucket.source}: {hosts.hosts} hosts cannot write one run to S3, whose "
            "mounts show a host what another wrote late. Give gs://, or devices of one host."
        )
    text = template("sky.yaml")
    task = yaml.safe_load(text)
    task["name"] = job.slug
    tpu = job.devices.platform == "tpu"
    task["num_nodes"] = 1 if tpu else hosts.hosts
    task["resources"] = (
        {
            "accelerators": f"tpu-{hosts.accelerator}",
            "accelerator_args": {"runtime_version": hosts.runtime, "tpu_vm": True},
        }
        if tpu
        else {"accelerators": f"{hosts.accelerator}:{hosts.chips}"}
    ) | {"use_spot": job.spot}
    output = bucket.runs(MOUNT)
    task["envs"] = {
        "BACKEND": job.backend,
        "RUN": f"{output}/{job.name}",
        CACHE: bucket.compiled(MOUNT),
        "ARGUMENTS": shlex.join(job.arguments(job.sent_config, output)),
    }
    mode = "MOUNT" if bucket.scheme == "gs" else "MOUNT_CACHED"
    task["file_mounts"] = {MOUNT: {"source": bucket.source, "mode": mode}}
    return dumped([task], told(header(text), job.about))


def _bucket(job: Job) -> Bucket:
    assert job.bucket is not None  # see targets
    return job.bucket
