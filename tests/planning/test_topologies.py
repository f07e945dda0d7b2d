"""Names of devices: what they stand for, and what is refused with which words."""

import importlib.util
import os

import jax
import pytest

from cotjax.config import MeshConfig
from cotjax.errors import InputError
from cotjax.planning import topologies
from cotjax.planning.topologies import SHAPES, check_libtpu, mesh_of, parse_topology, set_up
from cotjax.startup import gather_whole


@pytest.mark.parametrize(
    ("name", "chip", "shape", "slices", "size"),
    [
        ("v5e:4x4", "v5e", "4x4", 1, 16),
        ("v5e:4x4*2", "v5e", "4x4", 2, 32),
        ("v5e-8", "v5e", "2x4", 1, 8),
        ("v5p-8", "v5p", "2x2x1", 1, 4),
        ("v6e-64", "v6e", "8x8", 1, 64),
        ("V4:2x2x2", "v4", "2x2x2", 1, 8),
        ("cpu:8", "cpu", "8", 1, 8),
        ("h100:16", "h100", "16", 1, 16),
    ],
)
def test_a_name_stands_for_devices(name, chip, shape, slices, size):
    found = parse_topology(name)
    assert (found.chip, found.shape, found.slices, found.size) == (chip, shape, slices, size)


def test_fast_links_join_a_slice_or_a_host():
    assert parse_topology("v5e:4x4*2").island == 16
    assert parse_topology("h100:16").island == 8
    assert parse_topology("cpu:8").island == 8


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v9:4x4", "no such devices. Give a TPU slice such as v5e:4x4"),
        ("v5e", "no such devices"),
        ("v5e:3x3", f"v5e has no such slice. It has {', '.join(SHAPES['v5e'])}."),
        ("v5p:4x4", "v5p has no such slice. It has 2x2x1, 2x2x2"),
        ("v5e-7", "v5e has no such slice"),
        ("v5p-9", "v5p has no such slice"),  # an accelerator type counts two cores for a chip
        ("v5p:8", "Give v5p-8, or a shape such as v5p:2x2x1."),
        ("v5e:4x4*0", "no slices"),
        ("cpu:0", "cpu takes a count from 1"),
        ("h100:2x2", "h100 takes a count from 1"),
        ("cpu:8*2", "cpu takes a count"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(name, says):
    with pytest.raises(InputError) as error:
        parse_topology(name)
    assert str(error.value).startswith(f"--topology {name}: ") and says in str(error.value)


def test_without_libtpu_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match=r'Run pip install "cotjax\[plan\]"'):
        check_libtpu(parse_topology("v5e:4x4"))


def test_set_up_gives_jax_as_many_cpu_devices(monkeypatch):
    for name in ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES"):
        monkeypatch.setenv(name, "")  # so that they are as before afterwards
    monkeypatch.setenv("XLA_FLAGS", "")
    set_up(parse_topology("h100:4"))
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "4" and os.environ["JAX_PLATFORMS"] == "cpu"


def test_set_up_gives_the_compiler_for_tpus_a_run_s_flags(monkeypatch):
    for name in ("LIBTPU_INIT_ARGS", "JAX_PLATFORMS", *topologies._LIBTPU):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    monkeypatch.setattr(topologies, "check_libtpu", lambda topology: None)
    set_up(parse_topology("v5e:4x4"))
    planned = os.environ["LIBTPU_INIT_ARGS"]
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    gather_whole()
    assert planned == os.environ["LIBTPU_INIT_ARGS"] != ""


def test_more_devices_than_jax_has_are_refused():
    with pytest.raises(InputError, match="JAX has 8 devices here"):
        topologies.devices_of(parse_topology("cpu:16"))


def test_the_axes_of_a_mesh():
    mesh = mesh_of(parse_topology("cpu:8"), MeshConfig(data=-1, fsdp=2, tensor=2))
    assert dict(mesh.shape) == {"replica": 1, "data": 2, "fsdp": 2, "tensor": 2}


def test_a_replica_lies_on_each_slice():
    two = topologies.Topology("two", "v5e", "2x2", slices=2)
    mesh = mesh_of(two, MeshConfig(data=-1, fsdp=2, tensor=1), jax.devices())
    assert dict(mesh.shape) == {"replica": 2, "data": 2, "fsdp": 2, "tensor": 1}
    first = {device.id for device in mesh.devices[0].flat}
    assert first == {device.id for device in jax.devices()[:4]}


@pytest.mark.parametrize(
    ("topology", "sizes", "says"),
    [
        ("cpu:8", {"data": 3}, "mesh.data = 3"),
        ("cpu:8", {"data": 2}, "use 2 of the 8 devices of cpu:8"),
        ("cpu:8", {"data": -1, "tensor": 3}, "8 devices are not a multiple of 3"),
        ("v5e:2x2*2", {"replica": 4}, "Set mesh.replica = 0"),
        ("cpu:8", {"rollout_devices": 8}, "and some must learn"),
    ],
)
def test_a_mesh_that_does_not_fill_the_devices_is_refused(topology, sizes, says):
    with pytest.raises(InputError, match=says):
        mesh_of(parse_topology(topology), MeshConfig(**sizes), jax.devices())
