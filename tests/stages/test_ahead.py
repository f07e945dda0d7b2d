"""Sampling a step ahead: of which parameters, beside what, and what a checkpoint holds of it."""

import json
import threading
import time

import jax
import numpy as np
import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.parallel.mesh import make_mesh, run_mesh
from cotjax.run import run_stage
from cotjax.stages.ahead import Ahead
from cotjax.stages.grpo import Grpo
from cotjax.stages.policy import PolicyStage
from cotjax.stages.rewrite import Rewrite
from cotjax.training.deferred import Deferred, settled
from tests.tiny import make_config

APART = "--mesh.data=-1", "--mesh.rollout-devices=4", "--rollout.prompts=4"
OLDER = *APART, "--rollout.off-policy-steps=1", "--policy.sampler-correction=2"
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ahead")


def open_stage(folder, *flags, own=Grpo, mesh=None):
    config = make_config(folder, f"--stage={own.__name__.lower()}", f"--steps={STEPS}", *flags)
    stage = own.from_config(config, mesh or run_mesh(config.mesh))
    stage.prepare(folder)
    return stage


def copy(tree):
    return jax.tree.map(np.array, tree)


class Numbers:
    """A stream of numbers."""

    def __init__(self):
        self.place = 0

    def __next__(self):
        self.place += 1
        return self.place

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def held(place):
    return {"ahead": {"stream": {"place": place}, "sampled": None}}


def test_where_it_stands_is_asked_without_waiting():
    release = threading.Event()

    def sample(weights, step):
        assert not step or release.wait(60)
        return next(stream), {}

    stream = Numbers()
    ahead = Ahead(stream, sample, 3)
    ahead.take("p0", 0)
    state = ahead.get_state()  # while the next step is being sampled
    release.set()
    ahead.take("p1", 1)
    release.clear()
    assert isinstance(state["ahead"], Deferred)
    with pytest.raises(AttributeError):  # the numbers of this test are no groups
        settled(state)
    release.set()


def test_the_next_step_is_sampled_while_this_one_learns():
    stream, learning = Numbers(), threading.Event()
    steps = []

    def sample(weights, step):
        if step:  # ends only once the update of the step before has begun
            assert learning.wait(60)
        steps.append((weights, step, next(stream)))
        return steps[-1]

    ahead = Ahead(stream, sample, 3)
    assert ahead.take("p0", 0) == ("p0", 0, 1)
    learning.set()
    assert ahead.take("p1", 1) == ("p0", 1, 2)
    assert ahead.take("p2", 2) == ("p1", 2, 3)
    assert settled(ahead.get_state()) == held(3)  # none beyond the last


def test_a_sampling_that_fails_is_heard_of_at_its_step_and_leaves_no_trace():
    stream = Numbers()

    def sample(weights, step):
        number = next(stream)
        if step == 1:
            raise InputError("no")
        return number, {}

    ahead = Ahead(stream, sample, 3)
    ahead.take("p0", 0)
    assert settled(ahead.get_state()) == held(1)
    with pytest.raises(InputError, match="no"):
        ahead.take("p1", 1)


def test_no_thread_is_left_and_what_has_not_begun_never_does():
    release, sampled = threading.Event(), []

    def sample(weights, step):
        sampled.append(step)
        assert not step or release.wait(60)
        return next(stream), {}

    before, stream = threading.active_count(), Numbers()
    ahead = Ahead(stream, sample, 3)
    ahead.take("p0", 0)
    threading.Timer(0.1, release.set).start()
    ahead.close()
    assert sampled == [0, 1] and threading.active_count() <= before + 1  # the timer's
    ahead.close()  # harmless


def test_a_run_that_raises_leaves_no_thread_behind(folder, monkeypatch):
    def update(self, state, batch):
        raise InputError("no")

    monkeypatch.setattr(PolicyStage, "update", update)
    config = make_config(folder, "--stage=grpo", f"--steps={STEPS}", *OLDER)
    with pytest.raises(InputError, match="no"):
        run_stage(config, folder / "raises", began=time.monotonic())
    assert not [one.name for one in threading.enumerate() if one.name.startswith("sampling")]


def steps_of(stage, state, first, last):
    """(state, tokens of each step, where the data stands) of some steps as the loop takes them."""
    tokens = []
    for step in range(first, last):
        work = stage.next_step(state.params, step)
        tokens.append(np.array(work.groups.rollout.tokens))
        state, _ = stage.update(state, work.batch)
    return state, tokens, json.loads(json.dumps(settled(stage.data.get_state())))


def test_samples_are_of_the_parameters_one_update_older(folder):
    stage = open_stage(folder, *OLDER)
    state, params, tokens = stage.state, [], []
    for step in range(STEPS):
        params.append(copy(state.params))
        work = stage.next_step(state.params, step)
        tokens.append(work.groups.rollout.tokens)
        state, _ = stage.update(state, work.batch)
    plain = open_stage(folder, *APART)
    places = jax.tree.map(lambda leaf: leaf.sharding, plain.state.params)
    for step in range(STEPS):
        older = jax.device_put(params[max(step - 1, 0)], places)
        groups, _ = plain.sample(older, step)
        np.testing.assert_array_equal(groups.rollout.tokens, tokens[step])
    assert any((one != other).any() for one, other in zip(tokens[1:], tokens[:-1], strict=True))


def test_a_resumed_run_learns_from_what_was_sampled_before(folder):
    whole = open_stage(folder, *OLDER)
    end, tokens, _ = steps_of(whole, whole.state, 0, STEPS)
    first = open_stage(folder, *OLDER)
    middle, _, place = steps_of(first, first.state, 0, 2)
    assert place["ahead"]["sampled"]["groups"]["judged"]
    assert isinstance(place["ahead"]["sampled"]["metrics"]["sampled_tokens"], int)
    second = open_stage(folder, *OLDER)
    second.data.set_state(place)
    again, rest, _ = steps_of(second, middle, 2, STEPS)
    for one, other in zip(rest, tokens[2:], strict=True):
        np.testing.assert_array_equal(one, other)
    jax.tree.map(np.testing.assert_array_equal, copy(again.params), copy(end.params))


def test_devices_that_only_sample_change_nothing(folder):
    apart = open_stage(folder, *APART)
    assert apart.mesh.size == apart.student.rollout_mesh.size == 4
    end, tokens, _ = steps_of(apart, apart.state, 0, 2)
    together = open_stage(folder, "--rollout.prompts=4", mesh=make_mesh(4))
    expected, same, _ = steps_of(together, together.state, 0, 2)
    np.testing.assert_array_equal(tokens, same)
    jax.tree.map(np.testing.assert_array_equal, copy(end.params), copy(expected.params))


def test_the_gap_that_the_lag_makes_is_no_reason_to_stop(folder):
    assert "sampler_gap" in open_stage(folder, *APART).limits
    assert "sampler_gap" not in open_stage(folder, *OLDER).limits


def test_rewrites_may_be_sampled_ahead_too(folder):
    stage = open_stage(
        folder, *OLDER, "--rollout.max-prompt-tokens=64", "--batch.size=4", own=Rewrite
    )
    _, _, place = steps_of(stage, stage.state, 0, 2)
    assert place["stream"]["ahead"]["sampled"] is not None


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--rollout.off-policy-steps=2"], "Set rollout.off_policy_steps = 0 or 1"),
        (
            ["--rollout.off-policy-steps=1", "--policy.sampler-correction=2"],
            "mesh.rollout_devices",
        ),
        (
            ["--rollout.off-policy-steps=1", "--mesh.rollout-devices=1"],
            "Set policy.sampler_correction = 2",
        ),
    ],
)
def test_a_lag_without_what_it_needs_is_refused(flags, says):
    with pytest.raises(InputError, match=says):
        load(["--stage=grpo", "--name=x", *flags])
