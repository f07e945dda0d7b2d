"""What scripts and the Dockerfile get from a topology; test_files.py runs them."""

import pytest

from cotjax.errors import InputError
from cotjax.launching import scripts


def lines(text):
    return {line.partition(" #")[0].strip() for line in text.splitlines()}


def test_tpu_vms(job):
    found = lines(scripts.tpu_vm(job("v5p:2x2x2", zone="us-east5-a", spot=True)))
    assert {"ACCELERATOR=v5p-16", "RUNTIME=v2-alpha-tpuv5", "SLICES=1", "HOSTS=2"} <= found
    assert {"NAME=my-run-1", "RUN=My_run.1", "ZONE=us-east5-a", "SPOT=yes", "QUEUED=no"} <= found
    assert {"BUCKET=my-runs", "OUTPUT=bucket/maths/runs", "CONFIG=run.toml"} <= found
    assert "CACHE=bucket/maths/xla" in found


def test_several_slices_come_from_the_queue(job):
    found = lines(scripts.tpu_vm(job("v5e:4x4*2", zone="a")))
    assert {"QUEUED=yes", "SLICES=2", "HOSTS=8"} <= found


def test_slurm_starts_a_process_per_gpu(job):
    text = scripts.slurm(job("l4:2", bucket=None))
    assert {"#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=2"} <= set(text.splitlines())
    assert "#SBATCH --gpus-per-node=2" in text and "BUCKET=''" in lines(text)
    assert text.startswith("#!/bin/bash\n# Filled in: run.toml as My_run.1 on l4:2")


def test_an_image_for_its_devices(job):
    text = scripts.docker(job("h100:8", image="a"))
    assert {"ARG BACKEND=cuda", "ARG CONFIG=run.toml"} <= set(text.splitlines())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"flags": ("--steps=3",)}, "--steps=3: an image trains its config as it is"),
        ({"config": "../run.toml"}, "lies outside of this folder"),
        ({"config": "my run.toml"}, "a path without spaces"),
    ],
)
def test_what_an_image_cannot_have(job, more, says):
    with pytest.raises(InputError, match=says):
        scripts.docker(job("cpu:1", image="a", **more))
