"""The loss of the policy stages: the config's objective, and what the sampler's numbers change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.config import Plugin, PolicyConfig
from cotjax.config.loading import from_table
from cotjax.core import OBJECTIVES, PRESETS, policy_loss
from cotjax.core.objectives import make_objective, policy_advantage
from cotjax.errors import InputError
from cotjax.interfaces import ScoredGroups
from cotjax.stages.policy_loss import (
    UNUSED,
    UserTerm,
    in_words,
    logprobs,
    make_loss,
    open_objective,
    preset_notes,
    resolved,
)  # fmt: skip
from tests.tiny import make_policy

# The objective of a config.


def test_a_preset_and_a_variant_keep_their_own_conventions():
    def chosen(**settings):
        return open_objective(PolicyConfig(**settings))

    assert chosen() == PRESETS["cotjax"]
    for preset, objective in PRESETS.items():
        assert chosen(preset=preset) == objective
    gspo, dapo = chosen(objective="gspo"), chosen(objective="dapo", preset="trl")
    assert (gspo.term, gspo.clip_low, gspo.clip_high) == ("sequence", 3e-4, 4e-4)
    assert (dapo.clip_high, dapo.eps, dapo.unbiased_kl) == (0.28, 1e-4, True)
    assert chosen(objective="dr_grpo").scale == "none"
    assert chosen(objective="bridge_release").kl == "none"
    assert chosen(preset="verl", dual_clip=0.0).dual_clip is None


@pytest.mark.parametrize("objective", ["auto", *OBJECTIVES])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_resolved_config_leaves_nothing_open_and_means_the_same(preset, objective):
    policy = PolicyConfig(preset=preset, objective=objective)
    full = dataclasses.replace(policy, **resolved(open_objective(policy)))
    assert open_objective(full) == open_objective(policy)
    rest = {key for key, value in dataclasses.asdict(full).items() if value == "auto"}
    without = objective == "bridge_release" or not full.kl_coefficient
    assert rest <= {"objective", "term"} | ({"kl_estimator"} if without else set())


@pytest.mark.parametrize("key", ["kl_coefficient", "preset", "objective"])
def test_the_config_of_a_run_without_a_kl_can_be_read_again(key):
    values = {"kl_coefficient": 0.0, "preset": "verl", "objective": "dapo"}
    config = from_table({"stage": "grpo", "policy": {key: values[key]}}, "a file")
    own = {key: values[key]} | resolved(open_objective(config.policy))
    table = {"stage": "grpo", "policy": own}
    assert open_objective(from_table(table, "its run").policy) == open_objective(config.policy)


# Settings that change nothing, and conventions that come over others.

OTHER = {"clip_low": 0.01, "clip_high": 0.01, "dual_clip": 1.01, "advantage_scale": "mean",
         "ddof": 0, "eps": 0.5, "kl_estimator": "k1", "entropy_bonus": 0.7,
         "kl_coefficient": 0.7}  # fmt: skip


def numbers(objective):
    """Loss and advantages that all of an objective's settings go into."""
    rng = np.random.default_rng(0)
    reward = jnp.asarray(rng.normal(size=(2, 3)))
    advantage = policy_advantage(objective, reward)
    logp, old, ref = jnp.asarray(rng.normal(-2, 1, (3, 6, 5)))
    mask = jnp.ones((6, 5), bool)
    total, count, _ = policy_loss(objective, logp, old, ref, advantage.reshape(6, 1), mask,
                                  max_length=5, entropy=-logp)  # fmt: skip
    return float(total / count)


@pytest.mark.parametrize("key", OTHER)
@pytest.mark.parametrize("name", [*OBJECTIVES, "auto"])
def test_a_setting_either_changes_the_loss_or_is_refused(name, key):
    policy = PolicyConfig(objective=name, preset="bridge")
    other = dataclasses.replace(policy, **{key: OTHER[key]})
    scale = "std" if name == "dr_grpo" and key in ("ddof", "eps") else "auto"
    policy, other = (dataclasses.replace(one, advantage_scale=scale) if scale != "auto" else one
                     for one in (policy, other))  # fmt: skip
    if key in UNUSED.get(name, ()):
        with pytest.raises(InputError, match=f'policy.{key} = .*policy.objective = "{name}"'):
            open_objective(other)
    else:
        assert numbers(open_objective(policy)) != numbers(open_objective(other))


def test_a_term_of_one_s_own_has_no_clip():
    own = Plugin("policy.term", lambda logp, logp_old, advantage, mask: -logp)
    with pytest.raises(InputError, match="policy.clip_low = 0.1, policy.term = "):
        open_objective(PolicyConfig(clip_low=0.1), UserTerm(own, {}))
    assert open_objective(PolicyConfig(clip_low=0.2), UserTerm(own, {})).clip_low == 0.2


def test_what_an_objective_sets_otherwise_than_a_preset_is_said():
    (note,) = preset_notes(PolicyConfig(objective="dr_grpo", preset="verl"))
    assert note == (
        'policy.objective = "dr_grpo" comes over policy.preset = "verl": reduction = "length" '
        'instead of "token".'
    )
    for quiet in ({"objective": "dapo", "preset": "trl"}, {"objective": "grpo"}, {"preset": "trl"},
                  {"objective": "bridge_release"}):  # fmt: skip
        assert preset_notes(PolicyConfig(**quiet)) == ()


# The loss of a micro-batch.


def groups(**more):
    """Two prompts, three completions each, of uneven lengths, as somebody sampled them."""
    rng = np.random.default_rng(0)
    lengths = np.array([[1, 4, 6], [6, 2, 3]])
    made = ScoredGroups(
        prompt=rng.integers(2, 400, (2, 5)).astype(np.int32),
        prompt_mask=np.arange(5) >= np.array([[2], [0]]),
        completion=rng.integers(2, 400, (2, 3, 6)).astype(np.int32),
        completion_mask=np.arange(6) < lengths[..., None],
        advantage=rng.normal(size=(2, 3)).astype(np.float32),
        logp_sampler=np.zeros((2, 3, 6), np.float32),
    )
    return dataclasses.replace(made, **more)


def scored(groups, temperature=1.0):
    """Log-probabilities and entropies from all logits of every completion alone."""
    policy, params = make_policy()
    hidden = policy.completions(params, groups.prompt, groups.prompt_mask, groups.completion)
    logits = policy.head(params)(hidden) / temperature
    logp = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(logp) * logp).sum(-1)
    return jnp.take_along_axis(logp, groups.completion[..., None], -1)[..., 0], entropy


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_all_logits_at_the_temperature(temperature):
    policy, params = make_policy()
    mask = groups().completion_mask
    for found, expected in zip(
        logprobs(policy, params, groups(), temperature), scored(groups(), temperature), strict=True
    ):
        np.testing.assert_allclose(np.asarray(found)[mask], np.asarray(expected)[mask], atol=2e-5)


def loss_of(objective, groups, reference=None, **more):
    policy, params = make_policy()
    loss = make_loss(policy, objective, temperature=1.0, max_length=6, **more)
    total, count, metrics = loss(params, reference, groups)
    return float(total), float(count), metrics


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_cores_of_the_scored_groups(name):
    objective = dataclasses.replace(open_objective(PolicyConfig(objective=name)), beta=0.0)
    made = groups()
    logp, entropy = scored(made)
    old = logp - 0.3 * np.cos(np.arange(6)).astype(np.float32)
    made = dataclasses.replace(made, logp_old=old, logp_ref=old)
    expected = policy_loss(
        objective, logp, old, old, made.advantage[..., None], made.completion_mask,
        max_length=6, entropy=entropy,
    )  # fmt: skip
    total, count, _ = loss_of(objective, made)
    assert count == float(expected[1]) and total == pytest.approx(float(expected[0]), rel=1e-4)


def test_a_reference_that_the_loss_scores_counts_like_one_that_was_scored():
    objective = dataclasses.replace(open_objective(PolicyConfig()), beta=0.5)
    policy, params = make_policy()
    reference = jax.tree.map(lambda leaf: 0.9 * leaf, params)
    logp_ref = logprobs(policy, reference, groups(), 1.0)[0]
    inside = loss_of(objective, groups(), reference)
    before = loss_of(objective, groups(logp_ref=logp_ref))
    assert inside[0] == pytest.approx(before[0], rel=1e-5)
    assert float(inside[2]["kl"][0]) > 1e-3


def test_the_sampler_s_gap_is_that_of_the_policy_that_sampled():
    logp, _ = scored(groups())
    for old in (None, logp + 0.5):
        made = groups(logp_sampler=np.asarray(logp) - 0.25, logp_old=old)
        objective = open_objective(PolicyConfig(kl_coefficient=0.0))
        total, count = loss_of(objective, made)[2]["sampler_gap"]
        assert float(total / count) == pytest.approx(0.25 if old is None else 0.75, abs=1e-4)


def test_a_correction_weighs_a_token_by_how_much_likelier_the_trainer_finds_it_up_to_its_cap():
    objective = dataclasses.replace(open_objective(PolicyConfig(kl_coefficient=0.0)), scale="none")
    logp = np.asarray(scored(groups())[0])
    plain = loss_of(objective, groups(logp_sampler=logp))[0]
    for gap, weight in ((np.log(1.5), 1.5), (np.log(9.0), 2.0), (np.log(0.5), 0.5)):
        shifted = groups(logp_sampler=(logp - gap).astype(np.float32))
        assert loss_of(objective, shifted)[0] == pytest.approx(plain, rel=1e-4), "off"
        found = loss_of(objective, shifted, sampler_correction=2.0)[0]
        assert found == pytest.approx(weight * plain, rel=1e-4)


class Teachers:
    """Adds 2 to every advantage, or 3 to the loss of every token."""

    def __init__(self, by_gap):
        self.by_gap = by_gap

    def advantage(self, groups, logp):
        told = {"divergence": (jnp.float32(1), jnp.float32(2))}
        return groups.advantage[..., None] + 2 * jnp.ones_like(logp), told

    def divergence(self, groups, hidden, head):
        assert hidden.shape[:-1] == groups.completion.shape and head.size >= 421
        told = {"divergence": (jnp.float32(5), jnp.float32(1))}
        return jnp.full(groups.completion.shape, 3.0), told


def test_teachers_change_the_advantage_or_add_a_divergence():
    objective = open_objective(PolicyConfig(objective="dapo", kl_coefficient=0.0))
    made, mask = groups(), groups().completion_mask
    plain, count, _ = loss_of(objective, made)
    by_gap, _, told = loss_of(objective, made, teachers=Teachers(True))
    assert by_gap == pytest.approx(plain - 2 * mask.sum(), rel=1e-4), "the ratio is 1"
    assert told["divergence"] == (1, 2)
    added, same, told = loss_of(objective, made, teachers=Teachers(False))
    assert same == count and added == pytest.approx(plain + 3 * mask.sum(), rel=1e-4)
    assert told["divergence"] == (5, 1)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("name", [None, *OBJECTIVES])
def test_an_objective_in_words_names_every_number_that_counts(name, preset):
    one = make_objective(name, preset=preset, entropy_bonus=0.125)
    words = in_words(one)
    assert "Objective(" not in words and "0.125 × entropy" in words
    if one.beta:
        assert f"{one.beta:g} × " in words
    if one.term in ("clipped", "sequence"):
        assert f"1 − {one.clip_low:g}" in words and f"1 + {one.clip_high:g}" in words
    if one.baseline == "group" and one.scale == "std":
        assert f"{one.eps:g}" in words and f"ddof {one.ddof}" in words
    if one.dual_clip and one.term == "clipped":
        assert f"{one.dual_clip:g} × |advantage|" in words


def test_what_two_objectives_differ_in_is_in_their_words():
    for field, other in {
        **{"reduction": "token", "scale": "none", "ddof": 0, "eps": 1e-3, "clip_low": 0.1},
        **{"clip_high": 0.3, "dual_clip": 3.0, "max_log_ratio": 5.0, "kl": "k1", "max_kl": 2.0},
        **{"unbiased_kl": True, "beta": 0.5, "entropy_bonus": 0.1, "tempered": False},
        **{"baseline": "leave_one_out", "term": "cispo"},
    }.items():
        plain = make_objective(preset="cotjax")
        assert in_words(dataclasses.replace(plain, **{field: other})) != in_words(plain), field
