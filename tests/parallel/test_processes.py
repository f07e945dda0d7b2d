"""Two processes of four devices train as one of eight does, and one goes on where two stopped."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.parallel import processes
from cotjax.parallel.mesh import make_mesh
from cotjax.train import main as train
from tests.tiny import flags, write_sevens, write_student

STAGES = {
    "reconstruct": ["--batch.size=8", "--batch.sequence-length=96"],
    "grpo": ["--rollout.prompts=8", "--policy.refill=1", "--policy.inner-updates=2"],
}
# Two teachers, of whom the second has weights that grow; half of the batches are sampled.
DISTILL = [
    *("--batch.size=8", "--batch.sequence-length=48", "--rollout.prompts=8"),
    *("--distill.on-policy=0.5", "--curriculum.schedule=linear", "--curriculum.buckets=2"),
    *("--curriculum.num-monitor=4", "--curriculum.ranking-problems=0"),
    *("--teachers.paths", "TEACHERS/weak", "TEACHERS/strong"),
]
VARIABLES = {
    "ADDRESS": "JAX_COORDINATOR_ADDRESS",
    "COUNT": "JAX_NUM_PROCESSES",
    "NUMBER": "JAX_PROCESS_ID",
}
# Of a process's clock, so no two runs have the same.
CLOCKS = ("_s", "data_wait")


class World:
    """Runs of one student on one file."""

    def __init__(self, folder):
        self.runs, self.environment = folder / "runs", dict(os.environ)
        self.student = write_student(folder / "student")
        self.data = write_sevens(folder / "sevens.jsonl")
        self.teachers = folder / "teachers"
        for name, layers in {"weak": 1, "strong": 3}.items():
            write_student(self.teachers / name, num_layers=layers)

    def argv(self, stage, name, steps, *more):
        own = (
            f"--stage={stage}",
            f"--steps={steps}",
            "--mesh.data=8",
            "--optimizer.schedule=constant",
        )
        stage_flags = [
            flag.replace("TEACHERS", str(self.teachers))
            for flag in {**STAGES, "distill": DISTILL}[stage]
        ]
        return flags(self.student, self.data, self.runs, name, *own, *stage_flags, *more)

    def alone(self, *arguments):
        with contextlib.redirect_stdout(io.StringIO()):
            assert train(self.argv(*arguments)) == 0

    def together(self, *arguments, count=2):
        """What each of some processes said, which have the eight devices together."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        devices = "--xla_force_host_platform_device_count"
        flags = os.environ["XLA_FLAGS"].replace(f"{devices}=8", f"{devices}={8 // count}")
        environment = self.environment | {
            "XLA_FLAGS": flags,
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, "-m", "cotjax.train", *self.argv(*arguments)]
        started = [
            subprocess.Popen(
                command,
                env=environment | {"JAX_PROCESS_ID": str(number)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        said = [process.communicate(timeout=500) for process in started]
        assert [process.returncode for process in started] == [0] * count, said
        return [out for out, _ in said]

    def lines(self, name, file="metrics.jsonl"):
        text = (self.runs / name / file).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("processes"))


def assert_same_run(world, one, other, *, stopped=None):
    """All that the two runs wrote, but for the evaluation with which one of them stopped."""
    for file in ("metrics.jsonl", "completions.jsonl"):
        ours, theirs = (
            [
                row
                for row in world.lines(name, file)
                if (row["step"], row["kind"]) != (stopped, "eval")
            ]
            for name in (one, other)
        )
        assert len(ours) == len(theirs)
        for row, expected in zip(ours, theirs, strict=True):
            assert row.keys() == expected.keys()
            for name, value in expected.items():
                if isinstance(value, float) and not name.endswith(CLOCKS):
                    assert np.isclose(row[name], value, rtol=1e-4, atol=1e-6), (name, row, expected)
                elif not name.endswith(CLOCKS):
                    assert row[name] == value, (name, row, expected)


@pytest.mark.parametrize(
    "stage", [s if s == "grpo" else pytest.param(s, marks=pytest.mark.slow) for s in STAGES]
)
def test_two_processes_train_as_one_and_one_goes_on_where_they_stopped(world, stage):
    world.alone(stage, f"{stage}-alone", 4)
    first, second = world.together(stage, f"{stage}-together", 2)
    assert "accuracy" in first and "accuracy" not in second  # the first alone speaks
    world.alone(stage, f"{stage}-together", 4, "--resume")
    assert_same_run(world, f"{stage}-together", f"{stage}-alone", stopped=2)


def test_two_processes_go_on_where_one_stopped(world):
    if not (world.runs / "grpo-alone").exists():
        world.alone("grpo", "grpo-alone", 4)
    world.alone("grpo", "handed", 2)
    world.together("grpo", "handed", 4, "--resume")
    assert_same_run(world, "handed", "grpo-alone", stopped=2)


@pytest.mark.slow
def test_four_processes_train_as_one_and_two_go_on_where_they_stopped(world):
    if not (world.runs / "grpo-alone").exists():
        world.alone("grpo", "grpo-alone", 4)
    world.together("grpo", "four", 2, count=4)
    world.together("grpo", "four", 4, "--resume")
    assert_same_run(world, "four", "grpo-alone", stopped=2)


def test_two_processes_distil_as_one(world):
    world.alone("distill", "distill-alone", 4)  # its stages depend on the number of steps
    world.together("distill", "distill-together", 4)
    assert_same_run(world, "distill-together", "distill-alone")


# What a process knows while it is alone.


def test_a_process_alone_feeds_and_owns_every_row_and_tells_itself():
    mesh = make_mesh(2, 2, 2)
    np.testing.assert_array_equal(processes.fed_rows(mesh, 8), range(8))
    np.testing.assert_array_equal(processes.owners(mesh, 8), [0] * 8)
    assert processes.gather({"a": [1, "b"]}) == [{"a": [1, "b"]}]
    assert processes.is_first()
    processes.wait("nobody")


def test_rows_become_arrays_on_the_mesh_and_are_fetched_again():
    mesh, rows = make_mesh(2, 2, 2), {"x": np.arange(16).reshape(8, 2)}
    whole = processes.assemble(mesh, rows, 8)
    assert whole["x"].sharding.mesh == mesh and not whole["x"].is_fully_replicated
    np.testing.assert_array_equal(processes.fetch(whole)["x"], rows["x"])


@pytest.mark.parametrize(("devices_of", "joined"), [(2, True), (3, False)])
def test_other_processes_are_met_and_counted(monkeypatch, capsys, devices_of, joined):
    met = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *of, **_: met.append(of))
    monkeypatch.setattr(jax, "process_count", lambda: devices_of)
    for name, value in {"ADDRESS": "localhost:1", "COUNT": "2", "NUMBER": "1"}.items():
        monkeypatch.setenv(VARIABLES[name], value)
    if joined:
        processes.join()
        assert "of 2 (JAX_COORDINATOR_ADDRESS): 8 of 8 devices." in capsys.readouterr().err
    else:
        with pytest.raises(InputError, match="says that there are 2 processes, and the devices"):
            processes.join()
    assert met == [("localhost:1", 2, 1)]


def test_what_jax_cannot_find_is_one_sentence(monkeypatch):
    def initialize(*settings, **_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(InputError, match="Slurm: JAX cannot join 2 processes .coordinator"):
        processes.join()


def test_a_process_alone_meets_nobody(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *settings: pytest.fail("joined"))
    processes.join()


def test_two_processes_that_were_asked_for_where_slurm_started_three_stop(world, monkeypatch):
    monkeypatch.setitem(world.environment, "SLURM_STEP_NUM_TASKS", "3")
    with pytest.raises(AssertionError, match="JAX_NUM_PROCESSES = 2: Slurm says that there are 3"):
        world.together("grpo", "disagree", 2)
    assert not (world.runs / "disagree" / "config.toml").exists()
