"""The shapes of a policy stage's batches, and which of its programs nearly every run needs."""

import jax
import pytest

from cotjax.parallel.mesh import make_mesh
from cotjax.stages.policy_programs import (
    advantage_programs,
    group_shapes,
    rollout_programs,
    scored_shapes,
)
from cotjax.student.generate import rollout_sampling
from cotjax.student.load import load_policy
from tests.tiny import make_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policy_programs")


def test_groups_have_every_width_and_length_that_a_batch_may_have(folder):
    flags = "--rollout.max-new-tokens=150", "--data.prompt-widths=2"
    found = group_shapes(make_config(folder, *flags), make_mesh(2), 2)
    sizes = [(one.prompt.shape, one.completion.shape) for one in found]
    lengths = (64, 128, 150)
    assert sizes == [((2, width), (2, 4, t)) for width in (16, 32) for t in lengths]
    assert all(one.logp_old is None and one.logp_ref is None for one in found)


def test_scored_groups_have_a_number_for_every_token(folder):
    groups = group_shapes(make_config(folder), make_mesh(2), 4)
    (alone,) = scored_shapes(groups, reference=False)
    assert alone.logp_old.shape == alone.completion.shape and alone.logp_ref is None
    (both,) = scored_shapes(groups, reference=True)
    assert both.logp_ref.shape == both.completion.shape


@pytest.mark.parametrize("widths", [1, 2])
def test_a_rollout_is_sure_only_where_prompts_have_one_width(folder, widths):
    config, mesh = make_config(folder, f"--data.prompt-widths={widths}"), make_mesh(1)
    student = load_policy(config, mesh)
    settings = rollout_sampling(config.rollout, student)
    found = list(rollout_programs(student, config, mesh, settings))
    assert len(found) == widths and all(one.always == (widths == 1) for one in found)


def test_a_baseline_of_some_completions_is_sure_where_the_overlong_are_masked(folder):
    advantage = jax.jit(lambda reward, counts: reward)
    for masked in (False, True):
        flags = ["--policy.overlong=mask"] if masked else []
        config = make_config(folder, "--policy.refill=2", *flags)
        *informative, plain, counted = advantage_programs(config, advantage)
        assert [one.args[0].shape for one in informative] == [(4, 4), (8, 4), (12, 4)]
        assert [one.always for one in informative] == [True, False, False]
        assert (plain.always, counted.always) == (not masked, masked)
