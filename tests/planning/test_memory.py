"""Parts of memory: what is resident counts once, and what a layer keeps of a token."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from cotjax.config import load
from cotjax.config.plugins import open_stage
from cotjax.interfaces import Program
from cotjax.models.architecture import Architecture
from cotjax.parallel.mesh import make_mesh
from cotjax.planning.compiling import Compiled
from cotjax.planning.cost import Cost
from cotjax.planning.memory import Memory, memory_of, resident, saved_per_token, tokens_of
from cotjax.teachers.distill_loss import TeacherOutputs
from cotjax.teachers.pool import TeacherPool
from tests.tiny import TOKENIZER, make_config, write_teachers

SHAPE = Architecture("llama", 432, 16, 2, 4, 2, 8, 32, tie_embeddings=False)


def leaf(size):
    return jax.ShapeDtypeStruct((size,), jnp.float32)


def stage_of(**more):
    state = SimpleNamespace(params={"w": leaf(100)}, opt_state=[leaf(100), leaf(100)])
    student = SimpleNamespace(shapes=state.params, base_shapes={})
    return SimpleNamespace(state_shapes=state, student=student, **more)


def test_a_run_holds_parameters_optimizer_and_perhaps_its_start():
    assert resident(stage_of()).sizes() == {"parameters": 400, "optimizer": 800}
    assert resident(stage_of(keeps_start=True)).sizes()["reference"] == 400


def test_the_largest_teacher_is_held():
    plans = [SimpleNamespace(student=SimpleNamespace(shapes=[leaf(size)])) for size in (5, 9, 7)]
    pool = SimpleNamespace(plans=plans)
    assert resident(stage_of(teachers=pool)).sizes()["teachers"] == 36
    assert resident(stage_of(teachers=SimpleNamespace(teachers=pool))).sizes()["teachers"] == 36
    assert "teachers" not in resident(stage_of(teachers=None)).sizes()


def test_teachers_that_are_there_together_are_held_with_their_heads():
    plans = [SimpleNamespace(student=SimpleNamespace(shapes=[leaf(size)])) for size in (5, 9, 7)]
    pool = SimpleNamespace(plans=[*plans, plans[1]], slots=1)  # one in use, and the next
    assert resident(stage_of(teachers=pool)).sizes()["teachers"] == 4 * (9 + 7)
    pool.head_copy = lambda number: {1: leaf(3), 2: None, 3: leaf(3)}[number]
    assert resident(stage_of(teachers=pool)).sizes()["teachers"] == 4 * (9 + 7 + 3)
    cached = SimpleNamespace(teachers=SimpleNamespace(cache="cache"))
    assert "teachers" not in resident(stage_of(teachers=pool, config=cached)).sizes()


def test_teachers_are_what_a_pool_holds(tmp_path):
    write_teachers(tmp_path)
    names = [str(tmp_path / name) for name in ("weak", "strong")]
    config = make_config(tmp_path, "--stage=distill", "--teachers.paths", *names)
    pool = TeacherPool(config, make_mesh(2, 4), TOKENIZER, slots=1)
    teachers = [pool[number] for number in range(2)]
    held = [(one.params, one.head.matrix) for one in teachers]
    counted = resident(SimpleNamespace(teachers=pool)).sizes()["teachers"]
    assert bytes_of_first_device(held) == counted
    # A program that takes a head finds it there.
    shapes: Any = leaf(1), leaf(1)
    copy: Any = pool.head_copy(1)
    outputs = TeacherOutputs(*shapes, hidden=(), head=(copy,))
    program = Program("update", None, (outputs,))
    stage = SimpleNamespace(teachers=pool, mesh=pool._mesh)
    compiled = Compiled(program, 0, 0, 0, 0, Cost(), 0.0)
    found = memory_of(compiled, stage, None, resident(stage))  # pyright: ignore
    assert found.parts == {"teachers": counted, "batch": 8}


def test_a_stage_of_a_users_own_may_have_none_of_it():
    assert resident(object()).sizes() == {}


def test_what_is_resident_counts_once_and_the_rest_is_the_programs():
    stage = stage_of()
    program = Program("scoring", None, (stage.state_shapes.params, leaf(10)))
    compiled = Compiled(program, 440, 50, 0, 70, Cost(), 0.0)
    found = memory_of(compiled, stage, None, resident(stage))  # pyright: ignore
    expected = {"parameters": 400, "optimizer": 800, "batch": 40, "temporaries": 120}
    assert found == Memory("scoring", expected)
    assert found.total == 1360 and found.of("batch", "teachers") == 40


def test_rematerialisation_keeps_less():
    full, dots, none = (saved_per_token(SHAPE, remat) for remat in ("full", "dots", "none"))
    assert full == SHAPE.hidden_size < dots < none
    assert saved_per_token(SHAPE, "dots", tensor=2) < dots


def test_tokens_of_a_micro_batch():
    rows = SimpleNamespace(tokens=jnp.ones((2, 8)), segment=None)
    groups = SimpleNamespace(prompt=jnp.ones((2, 3)), completion=jnp.ones((2, 4, 5)))
    assert (
        tokens_of(rows) == tokens_of((rows, None)) == tokens_of(SimpleNamespace(batch=rows)) == 16
    )
    assert tokens_of(groups) == 6 + 40
    assert tokens_of(None) == 0


def bytes_of_first_device(held):
    arrays = {id(array): array for array in jax.tree.leaves(held) if isinstance(array, jax.Array)}
    shards = [shard for array in arrays.values() for shard in array.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0])


@pytest.mark.parametrize(
    "flags",
    [["--stage=sft"], ["--stage=grpo"], ["--stage=sft", "--lora.rank=4"]],
    ids=["no start is kept", "with its start", "an adapter"],
)
def test_what_is_resident_is_what_a_run_holds(flags):
    sizes = "--mesh.data=2", "--mesh.fsdp=4", "--eval.problems=8"
    config = load([*flags, "--name=plan", *sizes])
    stage = open_stage(config, make_mesh(2, 4))
    expected = sum(resident(stage).sizes().values())
    held = stage.state, stage.frozen
    assert bytes_of_first_device(held) == pytest.approx(expected, rel=0.15)
