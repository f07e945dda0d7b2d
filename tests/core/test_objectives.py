"""Laws of the whole policy loss, for every row of the tables."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cotjax import core
from cotjax.core.objectives import BASELINES, KL_ESTIMATORS, REDUCTIONS, TERMS
from tests import oracles
from tests.oracles import COMPOSED, assert_close

MAX_LENGTH = 7
# Those whose loss differs; the others differ in their advantages.
OBJECTIVES = {
    **{name: value for name, value in core.OBJECTIVES.items() if name != "rloo"},
    **{name: core.PRESETS[name] for name in ("verl", "tunix")},
    "everything": core.make_objective(
        "dapo", dual_clip=2.0, max_log_ratio=0.4, kl="k2", max_kl=0.05, entropy_bonus=0.3
    ),
    "bounded k1": core.make_objective("cispo", max_ratio=1.1, kl="k1", max_kl=0.1),
}
# A coefficient in every row, so that the distance to the reference is part of every test.
OBJECTIVES = {
    name: dataclasses.replace(objective, beta=0.2) for name, objective in OBJECTIVES.items()
}

each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def draw(seed=0, shape=(2, 3, 4)):
    """logp, old, ref, advantage [..., 1], mask, weight, entropy; sequences differ in length."""
    rng = np.random.default_rng(seed)
    logp = -rng.exponential(size=shape)
    arrays = (
        logp,
        logp - 0.4 * rng.normal(size=shape),
        logp - 0.4 * rng.normal(size=shape),
        rng.normal(size=(*shape[:-1], 1)),
    )
    mask = np.arange(shape[-1]) < rng.integers(0, shape[-1] + 1, (*shape[:-1], 1))
    mask[(0,) * len(shape)] = True
    extra = rng.uniform(0.5, 2, shape), rng.uniform(0, 3, shape)
    one, two = ([jnp.asarray(x, jnp.float32) for x in group] for group in (arrays, extra))
    return *one, jnp.asarray(mask), *two


def pair(name, logp, old, ref, advantage, mask, weight, entropy):
    return core.policy_loss(
        OBJECTIVES[name],
        logp,
        old,
        ref,
        advantage,
        mask,
        max_length=MAX_LENGTH,
        weight=weight,
        entropy=entropy,
    )


def value_and_slopes(name, *inputs):
    """The mean, its gradients by every array, and the metrics.

    Not compiled: operations of one shape are shared by all objectives, programs are not.
    """

    def value(arrays, mask):
        total, count, metrics = pair(name, *arrays[:4], mask, *arrays[4:])
        return core.mean_from(total, count), metrics

    arrays, mask = inputs[:4] + inputs[5:], inputs[4]
    (mean, metrics), slopes = jax.value_and_grad(value, has_aux=True)(arrays, mask)
    return mean, slopes, metrics


def loops(name, logp, old, ref, advantage, mask, weight, entropy, held):
    advantage = [[a] * len(x) for (a,), x in zip(advantage, logp, strict=True)]
    return oracles.policy_loss(
        OBJECTIVES[name], logp, old, ref, advantage, mask, MAX_LENGTH, weight, entropy, held
    )


@each_objective
@settings(max_examples=5)
@given(seed=st.integers(0, 2**16))
def test_the_loss_equals_the_loops_in_value_and_gradient(name, seed):
    inputs = draw(seed)
    value, slopes, _ = value_and_slopes(name, *inputs)
    logp, *rest = map(oracles.rows, inputs)
    assert_close(value, loops(name, logp, *rest, held=logp))
    expected = oracles.difference(lambda x: loops(name, x, *rest, held=logp), logp)
    assert_close(oracles.rows(slopes[0]), expected, COMPOSED)


@each_objective
def test_only_the_policy_and_its_entropy_are_differentiated(name):
    _, slopes, _ = value_and_slopes(name, *draw(1))
    old, ref, advantage, weight, entropy = slopes[1:]
    for constant in (old, ref, advantage, weight):
        assert not constant.any()
    assert entropy.any() == (OBJECTIVES[name].entropy_bonus > 0)


@each_objective
def test_masked_tokens_change_nothing_whatever_they_hold(name):
    inputs = draw(2)
    mask = inputs[4]
    assert not mask.all()
    poisoned = [
        x if x.dtype == bool or x.shape != mask.shape else jnp.where(mask, x, jnp.nan)
        for x in inputs
    ]
    clean, dirty = value_and_slopes(name, *inputs), value_and_slopes(name, *poisoned)
    for expected, actual in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert not np.asarray(dirty[1][0])[~np.asarray(mask)].any()


@each_objective
def test_an_empty_batch_is_zero_without_gradient(name):
    inputs = list(draw(3))
    inputs[4] = jnp.zeros_like(inputs[4])
    value, slopes, metrics = value_and_slopes(name, *inputs)
    assert value == 0
    assert not any(x.any() for x in jax.tree.leaves((slopes, metrics)))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "bridge_release"])
def test_uneven_micro_batches_equal_the_whole_batch(name):
    inputs = draw(4)
    lengths = inputs[4].sum(axis=(1, 2))
    assert lengths[0] != lengths[1]
    whole = pair(name, *inputs)
    parts = [pair(name, *(x[rows] for x in inputs)) for rows in (slice(0, 1), slice(1, 2))]
    for expected, *split in zip(jax.tree.leaves(whole), *map(jax.tree.leaves, parts), strict=True):
        assert_close(sum(split), expected)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_eight_devices_equal_one_and_compiled_equals_eager(name):
    inputs = draw(5, (8, 3, 4))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
    compiled = jax.jit(functools.partial(value_and_slopes, name))
    one, eight = value_and_slopes(name, *inputs), compiled(*sharded)
    for expected, actual in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        assert_close(actual, expected)


def loss(name="grpo", seed=0, **changes):
    names = ("logp", "logp_old", "logp_ref", "advantage", "mask", "weight", "entropy")
    arrays = dict(zip(names, draw(seed), strict=True)) | changes
    positional = [arrays.pop(key) for key in names[:5]]
    objective = arrays.pop("objective", OBJECTIVES.get(name))
    return core.policy_loss(objective, *positional, max_length=MAX_LENGTH, **arrays)


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "bridge_release"])
def test_without_old_log_probabilities_the_policy_is_its_own_sampler(name):
    logp = draw()[0]
    for expected, actual in zip(
        jax.tree.leaves(loss(name, logp_old=logp)),
        jax.tree.leaves(loss(name, logp_old=None)),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    slope = jax.grad(lambda x: loss(name, logp=x, logp_old=None)[0])(logp)
    expected = jax.grad(lambda x: loss(name, logp=x, logp_old=logp)[0])(logp)
    np.testing.assert_array_equal(slope, expected)


@pytest.mark.parametrize("name", ["grpo", "bridge_release"])
def test_without_a_reference_there_is_no_distance(name):
    objective = dataclasses.replace(OBJECTIVES[name], beta=0.0)
    total, count, metrics = loss(objective=objective, logp_ref=None)
    expected, _, with_reference = loss(objective=objective)
    assert_close(total, expected)
    assert "kl" not in metrics
    assert "kl" in with_reference


def test_optional_metrics_come_with_their_arrays():
    _, _, metrics = loss(weight=None, entropy=None)
    assert set(metrics) == {"ratio", "clip_fraction", "kl_old", "kl"}
    assert set(loss()[2]) == {"ratio", "clip_fraction", "kl_old", "kl", "weight", "entropy"}


@pytest.mark.parametrize("name", ["grpo", "gspo", "cispo", "bridge_release"])
def test_metrics_are_sums_and_counts_over_tokens(name):
    objective = dataclasses.replace(
        OBJECTIVES[name], clip_low=0.05, clip_high=0.08, max_ratio=1.1, kl="none"
    )
    inputs = draw(6)
    logp, old, ref, advantage, mask, weight, entropy = map(oracles.rows, inputs)
    expected = {key: [] for key in ("ratio", "clip_fraction", "kl_old", "kl", "weight", "entropy")}
    for i, (row, m) in enumerate(zip(logp, mask, strict=True)):
        whole = oracles.sequence_ratio(row, old[i], m)
        for t in np.flatnonzero(m):
            ratio = whole if name == "gspo" else np.exp(row[t] - old[i][t])
            outside = (ratio < 0.95 and advantage[i][0] < 0) or (
                ratio > 1.08 and advantage[i][0] > 0
            )
            clipped = {"cispo": ratio > 1.1, "bridge_release": False}.get(name, outside)
            expected["ratio"].append(ratio)
            expected["clip_fraction"].append(float(clipped))
            expected["kl_old"].append(oracles.kl_k3(row[t], old[i][t]))
            expected["kl"].append(oracles.kl_k3(row[t], ref[i][t]))
            expected["weight"].append(weight[i][t])
            expected["entropy"].append(entropy[i][t])
    metrics = loss(seed=6, objective=objective)[2]
    assert name == "bridge_release" or 0 < sum(expected["clip_fraction"])
    for key, values in expected.items():
        assert_close(metrics[key], (sum(values), len(values)))
        assert all(x.dtype == jnp.float32 for x in metrics[key])


def test_missing_arrays_are_named():
    with pytest.raises(ValueError, match="beta is 0.2; needs logp_ref"):
        loss(logp_ref=None)
    with pytest.raises(ValueError, match="entropy_bonus is set; needs entropy"):
        loss("everything", entropy=None)


@pytest.mark.parametrize(
    ("field", "table"),
    [("term", TERMS), ("reduction", REDUCTIONS), ("kl", KL_ESTIMATORS)],
)
def test_unknown_words_are_named_with_the_known(field, table):
    objective = dataclasses.replace(OBJECTIVES["grpo"], **{field: "grop"})
    with pytest.raises(ValueError, match=f"{field} is 'grop'; needs one of {', '.join(table)}"):
        loss(objective=objective)


def test_an_unknown_baseline_is_named():
    objective = core.make_objective(baseline="mean")
    with pytest.raises(
        ValueError, match=f"baseline is 'mean'; needs one of {', '.join(BASELINES)}"
    ):
        core.policy_advantage(objective, jnp.ones((1, 2)))


# The tables


def test_every_row_of_the_tables_is_spelt_out():
    for objective in (*core.OBJECTIVES.values(), *core.PRESETS.values()):
        assert objective.term in TERMS
        assert objective.reduction in REDUCTIONS
        assert objective.kl in KL_ESTIMATORS
        assert objective.baseline in BASELINES
    assert set(core.OBJECTIVES) == {
        "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "bridge_release"
    }  # fmt: skip
    assert set(core.PRESETS) == {"cotjax", "trl", "verl", "tunix", "bridge"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("grpo", {"clip_low": 0.2, "clip_high": 0.2, "scale": "std", "ddof": 1, "eps": 1e-6}),
        ("dr_grpo", {"reduction": "length", "scale": "none", "clip_high": 0.2}),
        ("dapo", {"reduction": "token", "clip_low": 0.2, "clip_high": 0.28}),
        ("gspo", {"term": "sequence", "reduction": "sequence", "clip_low": 3e-4}),
        ("gspo", {"clip_high": 4e-4}),
        ("cispo", {"term": "cispo", "reduction": "token", "max_ratio": 5.0}),
        ("rloo", {"baseline": "leave_one_out", "reduction": "sequence"}),
        ("bridge_release", {"kl": "none", "beta": 0.1, "eps": 1e-8, "reduction": "sequence"}),
    ],
)
def test_an_objective_is_what_its_paper_says(name, fields):
    row = dataclasses.asdict(core.OBJECTIVES[name])
    assert {key: row[key] for key in fields} == fields


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("cotjax", {"reduction": "sequence", "eps": 1e-6, "kl": "k3", "beta": 0.01}),
        ("trl", {"reduction": "token", "eps": 1e-4, "beta": 0.0, "unbiased_kl": True}),
        ("verl", {"reduction": "token", "dual_clip": 3.0, "max_log_ratio": 20.0, "max_kl": 10.0}),
        ("tunix", {"reduction": "sequence", "kl": "k1", "beta": 0.04, "max_log_ratio": 20.0}),
        ("bridge", {"reduction": "sequence", "eps": 1e-8, "beta": 0.1, "dual_clip": None}),
    ],
)
def test_a_preset_is_what_its_system_does(preset, fields):
    row = dataclasses.asdict(core.PRESETS[preset])
    assert {key: row[key] for key in fields} == fields
    assert row["term"] == "clipped" and row["baseline"] == "group" and row["ddof"] == 1
    assert row["unbiased_kl"] == (preset == "trl")


@pytest.mark.parametrize(
    ("preset", "winner"),
    [("cotjax", 1.5), ("trl", 1.4997), ("verl", 1.5), ("tunix", 1.5), ("bridge", 1.5)],
)
def test_the_worked_number_of_each_system(preset, winner):
    reward = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    advantage = core.policy_advantage(core.PRESETS[preset], reward)
    np.testing.assert_allclose(advantage[0, 0], winner, atol=5e-5)


def test_policy_advantage_follows_the_objective():
    reward, mask = jnp.array([[1.0, 0.0, 0.5]]), jnp.array([[True, True, False]])
    none = core.make_objective("dr_grpo")
    assert_close(core.policy_advantage(none, reward), [[0.5, -0.5, 0]])
    assert_close(core.policy_advantage(none, reward, mask), [[0.5, -0.5, 0]])
    other = core.make_objective("rloo")
    assert_close(core.policy_advantage(other, reward), [[0.75, -0.75, 0]])
    assert_close(core.policy_advantage(other, reward, mask), [[1, -1, 0]])
    wide = core.make_objective(ddof=0, eps=0.5)
    assert_close(core.policy_advantage(wide, reward[:, :2]), [[0.5, -0.5]])


def test_a_variant_overrides_a_preset_and_a_setting_overrides_both():
    assert core.make_objective() == core.make_objective("grpo") == core.PRESETS["cotjax"]
    assert core.make_objective(preset="trl") == core.PRESETS["trl"]
    objective = core.make_objective("gspo", preset="trl", clip_high=0.1)
    assert objective.eps == core.PRESETS["trl"].eps  # the preset's
    assert objective.reduction == "sequence"  # the variant's, not the preset's
    assert (objective.clip_low, objective.clip_high) == (3e-4, 0.1)


def test_an_unbiased_kl_has_the_gradient_of_the_kl_from_policy_to_reference():
    # Every token of a vocabulary once, weighted by its probability: an exact expectation.
    logits, ref = jnp.array([1.0, 0.0, -1.0]), jnp.array([0.0, 0.5, -1.0])
    probability, logp_ref = jax.nn.softmax(logits), jax.nn.log_softmax(ref)

    def expected(logits, **settings):
        objective = core.make_objective(reduction="token", beta=1.0, **settings)
        total = jnp.zeros(())
        for token in range(3):
            logp = jax.nn.log_softmax(logits)[token, None]
            one, _, _ = core.policy_loss(
                objective, logp, None, logp_ref[token, None], jnp.zeros(1), MASK_OF_ONE,
                max_length=1,
            )  # fmt: skip
            total += probability[token] * one
        return total

    slope = jax.grad(lambda z: core.reverse_kl(ref, z))(logits)
    np.testing.assert_allclose(jax.grad(expected)(logits, unbiased_kl=True), slope, atol=1e-6)
    assert abs(jax.grad(expected)(logits) - slope).max() > 0.01  # k3 alone pulls elsewhere


def test_what_a_dual_clip_holds_is_counted_as_clipped():
    objective = core.make_objective(dual_clip=3.0, beta=0.0)
    _, _, metrics = core.policy_loss(
        objective, jnp.log(jnp.array([4.0, 2.0])), jnp.zeros(2), None, jnp.array([-1.0, -1.0]),
        jnp.ones(2, bool), max_length=2,
    )  # fmt: skip
    assert metrics["clip_fraction"] == (1, 2)


MASK_OF_ONE = jnp.ones(1, bool)


@pytest.mark.parametrize("term", ["clipped", "sequence"])
def test_on_policy_nothing_is_clipped_however_narrow_the_clip(term):
    objective = core.make_objective(term=term, clip_low=0.0, clip_high=0.0, beta=0.0)
    clipped, count = loss(objective=objective, logp_old=None)[2]["clip_fraction"]
    assert clipped == 0 < count


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="objective is 'ppo'; needs one of grpo, dr_grpo"):
        core.make_objective("ppo")
    with pytest.raises(ValueError, match="preset is 'openrlhf'; needs one of cotjax, trl"):
        core.make_objective(preset="openrlhf")
    with pytest.raises(TypeError, match="clip_hi"):
        core.make_objective(clip_hi=0.3)


# A term of one's own.


def reinforce(logp, logp_old, advantage, mask):
    return -advantage * logp


def own_inputs():
    logp = jnp.log(jnp.array([[[0.5, 0.25, 0.9], [0.3, 0.6, 0.2]]]))
    old = logp - jnp.array([[[0.1, -0.2, 0.0], [0.3, 0.0, 0.5]]])
    mask = jnp.array([[[True, True, False], [True, True, True]]])
    return logp, old, jnp.array([[[1.0], [-2.0]]]), mask


@pytest.mark.parametrize("reduction", ["sequence", "token", "length"])
def test_a_term_of_ones_own_is_reduced_as_the_objective_says(reduction):
    logp, old, advantage, mask = own_inputs()
    objective = core.make_objective(term=reinforce, reduction=reduction, beta=0.0)
    total, count, metrics = core.policy_loss(
        objective, logp, old, None, advantage, mask, max_length=3
    )
    token = jnp.where(mask, -advantage * logp, 0)
    expected = REDUCTIONS[reduction](token, mask, 3)
    np.testing.assert_allclose((total, count), expected, rtol=1e-6)
    assert float(metrics["clip_fraction"][0]) == 0
    ratio = jnp.where(mask, jnp.exp(logp - old), 0).sum()
    np.testing.assert_allclose(metrics["ratio"][0], ratio, rtol=1e-6)


def test_a_copy_of_a_built_in_term_gives_its_loss():
    logp, old, advantage, mask = own_inputs()
    ref, entropy, weight = old - 0.1, -logp, jnp.full(logp.shape, 0.5)

    def clipped(logp, logp_old, advantage, mask):
        ratio = jnp.exp(logp - logp_old)
        return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)

    losses = [
        core.policy_loss(
            core.make_objective("grpo", entropy_bonus=0.1, **term), logp, old, ref, advantage, mask,
            max_length=3, entropy=entropy, weight=weight,
        )[0]
        for term in ({}, {"term": clipped})
    ]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_every_argument_of_a_term_has_one_shape():
    logp, old, advantage, mask = own_inputs()
    seen = []

    def term(*arrays):
        seen.extend(array.shape for array in arrays)
        return arrays[0]

    core.policy_loss(
        core.make_objective(term=term, beta=0.0), logp, old, None, advantage, mask, max_length=3
    )
    assert seen == [logp.shape] * 4


@pytest.mark.parametrize("term", [lambda *a: a[0].sum(), lambda *a: a[0][..., :1], lambda *a: None])
def test_a_term_of_another_shape_is_refused(term):
    logp, old, advantage, mask = own_inputs()
    objective = core.make_objective(term=term, beta=0.0)
    with pytest.raises((ValueError, TypeError), match=r"\(1, 2, 3\)"):
        core.policy_loss(objective, logp, old, None, advantage, mask, max_length=3)
