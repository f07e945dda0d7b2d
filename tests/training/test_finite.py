"""What is NaN or infinite is counted and named; nothing else is looked at."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.errors import InputError, NotFinite
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import batched
from cotjax.startup import counted
from cotjax.training.finite import (
    _count_not_finite,
    check_finite,
    finite_programs,
    not_finite,
)

TREE = {
    "embed": {"embedding": jnp.array([[1.0, np.nan], [np.inf, -np.inf]])},
    "blocks": [jnp.zeros(3), jnp.array([np.nan], jnp.bfloat16)],
    "step": jnp.int32(7),
    "key": jax.random.key(0),
    "none": None,
    "text": 3.0,
}


def test_numbers_that_are_none_are_counted_by_array():
    assert not_finite(TREE) == {"blocks.1": 1, "embed.embedding": 3}
    assert not_finite({"w": np.ones(4), "n": jnp.arange(3)}) == {}
    assert not_finite(()) == {}
    assert not_finite(jnp.float32(np.nan)) == {"array": 1}


def test_what_lies_in_the_hosts_memory_is_counted_without_a_program():
    values = np.random.default_rng(0).normal(size=(3, 700, 300)).astype(np.float32)
    places = np.random.default_rng(1).choice(values.size, 50, replace=False)
    values.reshape(-1)[places] = np.resize([np.nan, np.inf, -np.inf], 50)
    tree = {"jax": jnp.asarray(values), "numpy": values, "turned": values.T, "none": values[:0]}
    tree["half"] = jnp.asarray(values, jnp.bfloat16)
    with counted() as programs:
        found = not_finite(tree)
    assert found == dict.fromkeys(["half", "jax", "numpy", "turned"], 50)
    assert not programs.names


def test_arrays_over_several_devices_are_counted_as_a_whole():
    values = np.ones((8, 4), np.float32)
    values[3], values[7, 0] = np.nan, np.inf
    mesh = make_mesh(4, 2)
    places = [P(), P("data"), P("fsdp"), P(("data", "fsdp")), P("data", "fsdp"), P(None, "fsdp")]
    tree = {str(place): jax.device_put(values, NamedSharding(mesh, place)) for place in places} | {
        "batch": jax.device_put(values, batched(make_mesh(8)))
    }
    with counted() as programs:
        assert not_finite(tree) == dict.fromkeys(tree, 5)
    assert not programs.names
    assert {name: int(_count_not_finite(leaf)) for name, leaf in tree.items()} == dict.fromkeys(
        tree, 5
    )


def test_the_error_names_the_arrays_and_the_fix():
    check_finite({"w": jnp.ones(2)}, "model", "Do that.")
    with pytest.raises(NotFinite) as error:
        check_finite(TREE, 'model.path = "x"', "Do that.")
    assert isinstance(error.value, InputError)
    assert str(error.value) == (
        'model.path = "x": 1 of 1 numbers of blocks.1, 3 of 4 numbers of embed.embedding are NaN '
        "or infinite. Do that."
    )
    many = {f"w{n}": jnp.full(2, np.nan) for n in range(5)}
    with pytest.raises(NotFinite, match="of w2, some of 2 more arrays are NaN or infinite"):
        check_finite(many, "model", "Do that.")


class Elsewhere:
    """A sharding over devices of another kind."""

    device_set = (SimpleNamespace(platform="tpu"),)
    is_fully_addressable = True


def test_the_programs_are_those_of_the_shapes_each_once():
    kinds = [((4,), "float32"), ((4,), "float32"), ((2,), "float32"), ((4,), "bfloat16"),
             ((4,), "int32")]  # fmt: skip
    place = Elsewhere()
    shapes = [SimpleNamespace(shape=one, dtype=jnp.dtype(dtype), sharding=place)
              for one, dtype in kinds]  # fmt: skip
    assert [one.args[0].shape for one in finite_programs(shapes)] == [(4,), (2,), (4,)]
    for devices in (1, 2):
        here = jax.ShapeDtypeStruct((4,), "float32", sharding=batched(make_mesh(devices)))
        assert not [*finite_programs(here)]
