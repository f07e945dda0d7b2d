"""One program: its memory, its cost, and what a compiler says where it refuses one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cotjax.interfaces import Program
from cotjax.planning.collectives import MeshShape
from cotjax.planning.compiling import compile_program, on_devices

MESH = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
SPLIT = jax.ShapeDtypeStruct((16, 8), jnp.float32, sharding=NamedSharding(MESH, P("data")))
SHAPE = MeshShape({"data": 8})


def test_memory_and_cost_are_those_of_one_device():
    program = Program("double", jax.jit(lambda x: x @ x.T), (SPLIT,))
    found = compile_program(program, SHAPE, dumped=False)
    assert found.arguments == 2 * 8 * 4 and not found.refused and found.seconds > 0
    assert found.cost.flops in (2 * 2 * 8 * 16, 2 * 16 * 8 * 16)


def test_what_the_host_computes_is_left_out():
    assert on_devices(Program("a", None, (SPLIT, 3)))
    assert not on_devices(Program("b", None, (jax.ShapeDtypeStruct((3,), np.float32),)))
    assert not on_devices(Program("c", None, (None, np.ones(3))))


class Refuses:
    """Lowers to what no memory holds."""

    def __init__(self, message):
        self.message = message

    def lower(self, *_):
        return self

    def compile(self):
        raise JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("the total memory required for HLO temporaries (192.00G) exceeds available", 192),
        ("Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm.", 22.5),
    ],
)
def test_a_refusal_says_what_was_needed(message, gib):
    program = Program("large", Refuses(f"RESOURCE_EXHAUSTED: {message}"), (SPLIT,))
    found = compile_program(program, SHAPE, dumped=False)
    assert found.refused and found.cost.flops == 0
    assert found.arguments + found.temporary == gib * 2**30


def test_a_refusal_counts_what_a_program_takes_once():
    """A TPU's compiler names all that must lie there; XLA's page of E1000 lists the parts."""
    large = jax.ShapeDtypeStruct((2**30, 8), jnp.float32, sharding=SPLIT.sharding)  # 4 GiB each
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm."
    found = compile_program(Program("large", Refuses(said), (large,)), SHAPE, dumped=False)
    assert (found.arguments, found.temporary) == (4 * 2**30, 18.5 * 2**30)


def test_another_error_is_not_swallowed():
    program = Program("wrong", Refuses("INTERNAL: something else"), (SPLIT,))
    with pytest.raises(JaxRuntimeError, match="something else"):
        compile_program(program, SHAPE, dumped=False)
