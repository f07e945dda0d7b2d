"""LoRA: an adapter is a low-rank change of frozen weights, and nothing else learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.errors import InputError
from cotjax.models.lora import (
    BRIDGE,
    PROJECTIONS,
    Lora,
    attach,
    join_adapter,
    merge,
    split_adapter,
)
from tests.models.test_policy import (
    assert_close,
    decoded,
    on_a_mesh,
    row,
    rows,
    together,
    tokens,
)
from tests.tiny import SHAPE, make_policy

ALL = Lora(3, 4.5, 0.5, (".*",))
SOME = Lora(3, 4.5, 0.5, ("q_proj", "down"))
IDS = tokens(2, 7)


@functools.cache
def adapted(lora=ALL, shape=SHAPE):
    """A policy with an adapter that matters: (policy, adapter, base)."""
    policy, base = make_policy(shape)
    policy, adapter = attach(policy, base, lora, jax.random.key(0))
    rng = np.random.default_rng(1)
    return policy, jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape), adapter), base


def dense(adapter, base, lora):
    """The base's kernels with the change of the adapter, in float64 and layer by layer."""
    layers = dict(base["layers"])
    for name in lora.projections:
        a, b = (np.asarray(adapter["layers"][name][leaf], float) for leaf in ("lora_a", "lora_b"))
        kernel = np.asarray(layers[name]["kernel"], float)
        change = np.stack([one @ other for one, other in zip(a, b, strict=True)])
        layers[name] = layers[name] | {"kernel": kernel + lora.alpha / lora.rank * change}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), base | {"layers": layers})


def test_a_fresh_adapter_changes_no_bit():
    policy, base = make_policy()
    with_adapter, adapter = attach(policy, base, ALL, jax.random.key(0))
    params = join_adapter(adapter, base)
    np.testing.assert_array_equal(
        rows(with_adapter, params, row(IDS)), rows(policy, base, row(IDS))
    )


def test_a_is_drawn_uniformly_within_one_over_root_in_and_b_is_zero():
    wide = {"layers": {"down": {"kernel": jax.ShapeDtypeStruct((9, 500, 40), jnp.bfloat16)}}}
    policy, _ = make_policy()
    _, adapter = attach(policy, wide, Lora(20, 1.0, 0.0, ("down",)), jax.random.key(0))
    a, b = (adapter["layers"]["down"][leaf] for leaf in ("lora_a", "lora_b"))
    assert (a.shape, b.shape) == ((9, 500, 20), (9, 20, 40))
    assert a.dtype == b.dtype == jnp.float32
    bound = 500**-0.5
    assert np.abs(a).max() <= bound
    # Variance bound² / 3, of 90,000 numbers.
    np.testing.assert_allclose(np.mean(np.square(a)), bound**2 / 3, rtol=0.02)
    assert len(np.unique(a)) > 80_000
    assert not b.any()


@pytest.mark.parametrize("lora", [ALL, SOME], ids=["all", "some"])
def test_an_adapter_computes_what_changed_kernels_compute(lora):
    policy, adapter, base = adapted(lora)
    assert set(adapter["layers"]) == set(lora.projections)
    hidden = rows(policy, join_adapter(adapter, base), row(IDS))
    assert_close(hidden, rows(policy.without_adapter, dense(adapter, base, lora), row(IDS)))


def test_merged_parameters_are_those_kernels():
    policy, adapter, base = adapted(SOME)
    merged = merge(join_adapter(adapter, base), SOME)
    assert_close(merged, dense(adapter, base, SOME))
    assert merged["layers"]["gate"]["kernel"] is base["layers"]["gate"]["kernel"]
    policy.bind(merged)  # an ordinary decoder again


def test_a_merge_is_computed_in_float32_and_rounded_once():
    _, adapter, base = adapted()
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    merged = merge(join_adapter(adapter, narrow), ALL)
    expected = dense(adapter, narrow, ALL)
    for name in PROJECTIONS:
        ours, theirs = (tree["layers"][name]["kernel"] for tree in (merged, expected))
        assert ours.dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, and what float32 adds.
        assert (np.abs(ours.astype(jnp.float32) - theirs) <= np.abs(theirs) * 2**-8 * 1.001).all()


def test_split_and_join_move_leaves_and_copy_none():
    _, adapter, base = adapted()
    params = join_adapter(adapter, base)
    assert params["layers"]["query"].keys() == {"kernel", "lora_a", "lora_b"}
    for one, other in zip(split_adapter(params), (adapter, base), strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        assert all(a is b for a, b in leaves)
    assert split_adapter(base) == ({}, base)


def test_the_reference_is_the_base_policy_to_the_bit_from_the_same_weights():
    policy, adapter, base = adapted()
    original, _ = make_policy()
    assert policy.without_adapter == original
    assert hash(policy.without_adapter) == hash(original)
    assert policy != original
    params = join_adapter(adapter, base)
    hidden = together(policy.without_adapter, params)
    np.testing.assert_array_equal(hidden, together(original, base))
    np.testing.assert_array_equal(policy.unembed(params), original.unembed(base))


def test_parameters_with_an_adapter_are_not_bound_as_if_they_had_none():
    policy, adapter, base = adapted()
    with pytest.raises(ValueError, match="leaves"):
        policy.bind(join_adapter(adapter, base))


def test_prefill_and_decode_equal_the_full_forward():
    policy, adapter, base = adapted()
    params = join_adapter(adapter, base)
    expected = together(policy, params)
    assert_close(decoded(policy, params), expected)
    assert_close(decoded(on_a_mesh(policy), params), expected)


def test_several_adapters_of_one_base_are_mapped():
    policy, adapter, base = adapted(SOME)
    two = jax.tree.map(lambda x: jnp.stack([x, -2 * x]), adapter)
    mapped = jax.jit(jax.vmap(lambda adapter: policy.rows(join_adapter(adapter, base), row(IDS))))(
        two
    )
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], two)
        assert_close(mapped[i], rows(policy, join_adapter(one, base), row(IDS)))


def test_bridge_is_as_released():
    assert (BRIDGE.rank, BRIDGE.alpha, BRIDGE.dropout, BRIDGE.scale) == (16, 32.0, 0.05, 2.0)
    assert BRIDGE.projections == ("query", "key", "value", "out")


@pytest.mark.parametrize(
    ("targets", "projections"),
    [
        (("down", "query"), ("query", "down")),
        (("[qv]_proj",), ("query", "value")),
        ((".*_proj",), tuple(PROJECTIONS)),
        (("q_proj", "query"), ("query",)),
        (("(gate|up)",), ("gate", "up")),
    ],
)
def test_targets_are_names_or_patterns_for_a_whole_name(targets, projections):
    assert Lora(1, 1.0, 0.0, targets).projections == projections


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 1.0, 0.0, ("q_proj",)), r"lora.rank = 0: .*Set lora.rank >= 1"),
        ((1, 0.0, 0.0, ("q_proj",)), r"lora.alpha = 0.0: .*lora.alpha > 0"),
        ((1, float("nan"), 0.0, ("q_proj",)), r"lora.alpha = nan"),
        ((1, 1.0, 1.0, ("q_proj",)), r"lora.dropout = 1.0: .*0 <= lora.dropout < 1"),
        ((1, 1.0, 0.0, ()), r"lora.targets is empty.*query \(q_proj\)"),
        ((1, 1.0, 0.0, ("q_proj", "proj")), r'"proj" matches no .*down \(down_proj\)'),
        ((1, 1.0, 0.0, ("(q",)), r'lora.targets: "\(q" is not a regular expression'),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Lora(*settings)


def test_a_rank_above_a_projection_is_refused():
    policy, base = make_policy()
    message = r"lora.rank = 17: gate \(gate_proj\) maps 16 to 32 .*at most 16. Set lora.rank <= 16"
    with pytest.raises(InputError, match=message):
        attach(policy, base, Lora(17, 1.0, 0.0, ("gate",)), jax.random.key(0))
