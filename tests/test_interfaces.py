"""What crosses a folder's border: batches are pytrees, and built-in classes keep the protocols."""

import dataclasses
import inspect

import jax
import numpy as np
import pytest

from cotjax import interfaces
from cotjax.data.problems import ProblemSource
from cotjax.interfaces import End, Placement, Record, Rollout, ScoredGroups, TokenBatch
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement
from cotjax.stages.base import BaseStage
from cotjax.stages.policy import PolicyStage
from cotjax.stages.rejection import RejectionStage
from cotjax.stages.supervised import SupervisedStage

BATCHES = [TokenBatch, interfaces.PromptBatch, Rollout, ScoredGroups, interfaces.TrainState]


@pytest.mark.parametrize("batch", BATCHES, ids=lambda one: one.__name__)
def test_a_batch_is_a_frozen_pytree_of_its_fields(batch):
    fields = [field.name for field in dataclasses.fields(batch)]
    made = batch(*[np.full(2, number) for number in range(len(fields))])
    again = jax.tree.map(lambda leaf: leaf + 1, made)
    assert [getattr(again, name)[0] for name in fields] == list(range(1, len(fields) + 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, fields[0], None)


def test_a_completion_ended_by_a_token_or_a_text_and_by_nothing_else():
    ends = np.array([[End.LENGTH, End.EOS, End.STOP, End.NONFINITE]])
    rollout = Rollout(*[ends] * 4, ends)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(rollout.ended, [[False, True, True, False]])


def test_a_placement_splits_examples_and_copies_the_rest():
    place: Placement = placement(make_mesh(2, 2, 2))
    assert place.platform == "cpu" and place.whole().is_fully_replicated
    assert place.split().spec[0] == place.batch and place.split(None, "tensor").spec[2] == "tensor"


def test_a_record_is_a_value():
    record = Record("r/1", "?", "7", ("a",), 1)
    assert record == dataclasses.replace(record) and hash(record) == hash(
        Record(*vars(record).values())
    )


def members(protocol):
    return {
        name
        for name, value in vars(protocol).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    "stage", [PolicyStage, RejectionStage, SupervisedStage], ids=lambda one: one.__name__
)
def test_stages_have_the_methods_of_the_protocol(stage):
    assert issubclass(stage, BaseStage)
    methods = members(interfaces.Stage) - {"update"}  # made when a stage is opened
    assert {"next_step", "evaluate", "prepare", "programs"} <= methods
    assert all(callable(getattr(stage, name, None)) for name in methods)


def test_built_in_problems_are_a_source():
    source: interfaces.Source = ProblemSource("train", 0, 2, 3)
    assert len(source) > 0 and source[0] == source[0]
