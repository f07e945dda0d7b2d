"""What GKE's and SkyPilot's files get from a topology."""

import pytest
import yaml

from cotjax.errors import InputError
from cotjax.launching import manifests


def jobset(job):
    """(the job of a slice, its pod) of a filled JobSet."""
    _, filled = yaml.safe_load_all(manifests.gke(job))
    slice_ = filled["spec"]["replicatedJobs"][0]
    return slice_, slice_["template"]["spec"]["template"]["spec"]


def test_a_pod_per_host_on_nodes_of_its_kind(job):
    slice_, pod = jobset(job("v6e:4x8*2", image="a/b:1"))
    assert slice_["replicas"] == 2 and slice_["template"]["spec"]["completions"] == 8
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    container = pod["containers"][0]
    assert container["image"] == "a/b:1"
    assert container["resources"] == {
        "limits": {"google.com/tpu": 4},
        "requests": {"memory": "540G"},
    }
    assert {"name": "JAX_NUM_PROCESSES", "value": "16"} in container["env"]
    cache = {"name": "JAX_COMPILATION_CACHE_DIR", "value": "/bucket/maths/xla"}
    assert cache in container["env"]
    attributes = pod["volumes"][1]["csi"]["volumeAttributes"]
    assert attributes["bucketName"] == "my-runs" and attributes["hostNetworkPodKSA"] == "true"


def test_a_large_checkpoint_and_a_large_batch_find_room(job):
    _, jobset = yaml.safe_load_all(manifests.gke(job("v5e:4x4", image="a/b")))
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    notes = template["metadata"]["annotations"]
    for what in ("cpu", "memory", "ephemeral-storage"):  # of the bucket's driver; 0 is no limit
        assert notes[f"gke-gcsfuse/{what}-limit"] == "0"
    pod = template["spec"]
    mounts = {one["mountPath"]: one["name"] for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}


def test_the_config_goes_along_as_it_is(job):
    made = job("v5e:2x2", image="a")
    config, filled = yaml.safe_load_all(manifests.gke(made))
    assert config["data"] == {"run.toml": made.text}
    assert config["metadata"]["name"] == filled["metadata"]["name"] == "my-run-1"
    _, pod = jobset(made)
    assert pod["volumes"][0]["configMap"]["name"] == "my-run-1"


def test_spot_is_a_node_selector(job):
    _, pod = jobset(job("v5p-8", image="a", spot=True))
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"


def test_slices_of_one_host_are_not_joined(job):
    with pytest.raises(InputError, match=r"v5e:2x4\*2: GKE joins slices of several hosts only"):
        manifests.gke(job("v5e:2x4*2", image="a"))


def test_skypilot_names_a_tpu_slice_or_nodes_with_gpus(job):
    tpu = yaml.safe_load(manifests.sky(job("v5p:2x2x2", spot=True)))
    assert tpu["num_nodes"] == 1 and tpu["envs"]["BACKEND"] == "tpu"
    assert tpu["resources"] == {
        "accelerators": "tpu-v5p-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv5", "tpu_vm": True},
        "use_spot": True,
    }
    gpus = yaml.safe_load(manifests.sky(job("a100:16")))
    assert tpu["envs"]["JAX_COMPILATION_CACHE_DIR"] == "/bucket/maths/xla"
    assert gpus["num_nodes"] == 2 and gpus["envs"]["BACKEND"] == "cuda"
    assert gpus["resources"] == {"accelerators": "A100-80GB:8", "use_spot": False}
    assert gpus["file_mounts"] == {"/bucket": {"source": "gs://my-runs", "mode": "MOUNT"}}


def test_s3_is_for_one_host(job):
    one = yaml.safe_load(manifests.sky(job("h100:8", bucket="s3://my-runs")))
    assert one["file_mounts"]["/bucket"]["mode"] == "MOUNT_CACHED"
    with pytest.raises(InputError, match="2 hosts cannot write one run to S3"):
        manifests.sky(job("h100:16", bucket="s3://my-runs"))


def test_skypilot_rents_one_slice(job):
    with pytest.raises(InputError, match=r"SkyPilot rents one slice. Leave \*2 out"):
        manifests.sky(job("v5e:4x4*2"))
