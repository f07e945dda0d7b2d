"""What stages do in the same way: the check before the first step, and the evaluation."""

import dataclasses

import jax
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.stages.base import BaseStage
from cotjax.student.load import load_policy
from cotjax.student.records import load_records
from tests.tiny import make_config


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    config, mesh = make_config(tmp_path_factory.mktemp("base")), make_mesh(1)
    student = load_policy(config, mesh)
    _, held_out = load_records(config, student.tokenizer, student.prompts)
    return config, mesh, student, held_out


def test_a_stage_has_the_students_notes_and_resolves_nothing_by_itself(opened):
    stage = BaseStage(*opened)
    assert stage.notes == opened[2].notes and stage.resolved == {}
    assert stage.inner_updates == 1


def test_a_state_of_another_beginning_takes_the_place_of_the_students(opened):
    stage = BaseStage(*opened)
    stage.learn_from(lambda params, reference, micro: (micro, micro, {}), 1)
    assert jax.tree.map(lambda a, b: a.shape == b.shape, stage.state, stage.state_shapes)
    params = jax.tree.map(lambda leaf: 2 * leaf, stage.state.params)
    stage.state = dataclasses.replace(stage.state, params=params)
    assert stage.state.params is params
    assert stage.student.params is not params, "the start is kept"


def test_golds_are_checked_before_the_first_step_and_nothing_is_written(opened, tmp_path):
    config, mesh, student, held_out = opened
    assert BaseStage(*opened).prepare(tmp_path) == () and not list(tmp_path.iterdir())
    unreadable = [dataclasses.replace(held_out[0], answer="seven")]
    (said,) = BaseStage(config, mesh, student, unreadable).prepare(tmp_path)
    assert said.startswith("gold check: ")


def test_an_evaluation_is_of_the_held_out_records(opened):
    numbers, rows = BaseStage(*opened).evaluate(opened[2].params)
    assert numbers["problems"] == len(rows) == 4
    assert [row["id"] for row in rows] == [record.id for record in opened[3]]
