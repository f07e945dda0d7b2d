"""Placement: who holds what, and what cannot be shared."""

import jax
import numpy as np
import pytest

from cotjax.config import MeshConfig
from cotjax.errors import InputError
from cotjax.parallel.mesh import check_divides, make_mesh, rollout_mesh, run_mesh, use_cpu_cores
from cotjax.parallel.sharding import replicate, shard


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (3, 3), (8, 8), (-1, 8)])
def test_a_mesh_takes_the_devices_that_it_is_told_to(asked, got):
    mesh = make_mesh(asked)
    assert mesh.size == got
    assert mesh.shape == {"replica": 1, "data": got, "fsdp": 1, "tensor": 1}


def test_an_axis_may_take_a_part_of_one_of_the_torus(monkeypatch):
    """JAX refuses to split one of 4 chips into 2 · 2, but on a v5e."""

    def refuses(*_, **__):
        raise NotImplementedError("the product of some subset of the physical mesh axis sizes")

    expected = make_mesh(1, 4, 2)
    monkeypatch.setattr(jax, "make_mesh", refuses)
    assert make_mesh(1, 4, 2) == expected


def test_more_devices_than_there_are():
    with pytest.raises(InputError) as error:
        make_mesh(9)
    assert str(error.value) == (
        "mesh.data = 9, mesh.fsdp = 1, mesh.tensor = 1: their product is 9, this process sees 8 "
        "devices. Set one axis to -1 for the devices that are left."
    )


def test_a_shard_holds_its_part_and_a_replica_all():
    tree = {"a": np.arange(16).reshape(8, 2), "b": np.arange(8)}
    mesh = make_mesh(4)
    for placed, rows in ((shard(mesh, tree), 2), (replicate(mesh, tree), 8)):
        jax.tree.map(np.testing.assert_array_equal, placed, tree)
        for leaf in jax.tree.leaves(placed):
            assert [len(part.data) for part in leaf.addressable_shards] == [rows] * 4


def test_what_divides_passes():
    check_divides(make_mesh(4), 12, "rollout.prompts")


@pytest.mark.parametrize(("size", "fits"), [(13, 12), (3, 4)])
def test_what_does_not_divide_names_a_size_that_fits(size, fits):
    with pytest.raises(InputError) as error:
        check_divides(make_mesh(4), size, "rollout.prompts")
    assert str(error.value) == (
        f"rollout.prompts = {size}: 4 devices cannot share it equally (mesh.data · mesh.fsdp). "
        f"Set rollout.prompts = {fits}, or mesh.data to a divisor of {size}."
    )


def test_devices_of_a_jax_that_was_used_stay(monkeypatch):
    """As in a notebook: asking for the cores of the machine then changes nothing."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    before = jax.devices()
    use_cpu_cores()
    assert jax.devices() == before


def ids(mesh):
    return [device.id for device in mesh.devices.flat]


def test_replicas_hold_devices_that_lie_together():
    mesh = run_mesh(MeshConfig(replica=2, data=-1, fsdp=2))
    assert mesh.shape == {"replica": 2, "data": 2, "fsdp": 2, "tensor": 1}
    assert sorted(device.id for device in mesh.devices[0].flat) == [0, 1, 2, 3]
    check_divides(mesh, 8, "batch.size")
    with pytest.raises(InputError, match="8 devices cannot share it"):
        check_divides(mesh, 4, "batch.size")


class Chip:
    """A device of a slice."""

    platform = "tpu"

    def __init__(self, number, slice_index):
        self.id, self.slice_index = number, slice_index


def test_slices_that_there_are_may_not_be_cut_otherwise():
    chips = [Chip(number, number // 4) for number in range(8)]
    with pytest.raises(InputError, match=r"lie in 2 slices\. Set mesh.replica = 2, or 0"):
        run_mesh(MeshConfig(replica=4), chips)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"replica": 3}, "mesh.replica = 3: does not divide the 8 devices"),
        ({"rollout_devices": 8}, "mesh.rollout_devices = 8: there are 8 devices, and some must"),
        ({"replica": 2, "data": 8}, "mesh.data = 8"),
    ],
)
def test_devices_that_do_not_divide_are_refused(sizes, says):
    with pytest.raises(InputError, match=says):
        run_mesh(MeshConfig(**sizes))


@pytest.mark.parametrize(
    ("sizes", "shape", "devices"),
    [
        ({}, (1, 1, 8, 1), range(8)),
        ({"rollout": "tensor=4"}, (1, 2, 1, 4), range(8)),
        ({"rollout": "data=4,tensor=2"}, (1, 4, 1, 2), range(8)),
        ({"rollout_devices": 3}, (1, 3, 1, 1), (5, 6, 7)),
        ({"rollout_devices": 4, "rollout": "tensor=2"}, (1, 2, 1, 2), (4, 5, 6, 7)),
    ],
)
def test_sampling_may_have_axes_and_devices_of_its_own(sizes, shape, devices):
    sizes = MeshConfig(data=1, fsdp=-1, **sizes)
    mesh = run_mesh(sizes)
    sampling = rollout_mesh(mesh, sizes)
    assert tuple(sampling.shape.values()) == shape and ids(sampling) == list(devices)
    if sizes.rollout_devices:
        assert not set(ids(mesh)) & set(devices) and len(ids(mesh)) == 8 - len(devices)
    else:
        assert ids(mesh) == ids(sampling)


@pytest.mark.parametrize("axes", ["tensor=3", "data=3", "data=2,tensor=2", "tensor=16"])
def test_axes_that_do_not_fill_the_devices_that_sample_are_refused(axes):
    sizes = MeshConfig(rollout=axes)
    with pytest.raises(InputError, match=f'mesh.rollout = "{axes}": .* and 8 sample'):
        rollout_mesh(run_mesh(sizes), sizes)
