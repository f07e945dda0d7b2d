"""Placement: who holds what, and what cannot be shared."""

import jax
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.parallel.mesh import check_divides, make_mesh, use_cpu_cores
from cotjax.parallel.sharding import replicate, shard


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (3, 3), (8, 8), (-1, 8)])
def test_a_mesh_takes_the_devices_that_it_is_told_to(asked, got):
    mesh = make_mesh(asked)
    assert mesh.size == got and mesh.shape == {"data": got, "fsdp": 1, "tensor": 1}


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
