"""LoRA learns: only the adapter has a gradient, the right one, and dropout is drawn by key."""

import dataclasses
import functools
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.core.logprobs import chunked_token_logprobs
from cotjax.models.attention import Causal
from cotjax.models.lora import PROJECTIONS, Adapter, Lora, attach, join_adapter
from cotjax.models.policy import Policy
from cotjax.models.transformer import REMAT, Transformer
from tests.models.test_lora import ALL, IDS, adapted, dense
from tests.models.test_policy import (
    BATCH,
    COMPLETIONS,
    GROUP,
    OWN,
    PROMPT_MASK,
    PROMPTS,
    SHAPES,
    alone,
    assert_close,
    row,
    rows,
    together,
)
from tests.tiny import SHAPE


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shared_prompt_equals_each_completion_alone_and_has_its_gradient(shape):
    policy, adapter, base = adapted(ALL, SHAPES[shape])
    pull = np.random.default_rng(2).normal(size=(BATCH, GROUP, OWN, SHAPE.hidden_size))

    def pulled(call, adapter):
        hidden = call(policy, join_adapter(adapter, base))
        return (hidden * pull).sum(), hidden

    values = [
        jax.jit(jax.value_and_grad(functools.partial(pulled, call), has_aux=True))(adapter)
        for call in (together, alone)
    ]
    ((_, hidden), ours), ((_, expected), theirs) = values
    assert_close(hidden, expected)
    assert_close(ours, theirs)


def test_the_gradient_is_that_of_the_changed_kernels_through_both_matrices():
    policy, adapter, base = adapted()

    def loss(policy, params):
        return (rows(policy, params, row(IDS)) ** 3).sum()

    ours = jax.grad(lambda adapter: loss(policy, join_adapter(adapter, base)))(adapter)
    by_kernel = jax.grad(functools.partial(loss, policy.without_adapter))(dense(adapter, base, ALL))
    for name, thin in adapter["layers"].items():
        by_w = ALL.scale * by_kernel["layers"][name]["kernel"]
        a, b = thin["lora_a"], thin["lora_b"]
        expected = {
            "lora_a": jnp.einsum("lio,lro->lir", by_w, b),
            "lora_b": jnp.einsum("lir,lio->lro", a, by_w),
        }
        assert_close(ours["layers"][name], expected)


def remat_policy(remat, param_dtype=jnp.float32, dtype=jnp.float32):
    """More layers than are unrolled, no two sizes equal where it could be confused."""
    shape = dataclasses.replace(SHAPE, num_layers=9, hidden_size=24)
    model = Transformer(shape, rngs=nnx.Rngs(0), remat=remat, param_dtype=param_dtype, dtype=dtype)
    policy, base = Policy.split(model)
    policy, adapter = attach(policy, base, ALL, jax.random.key(0))
    rng = np.random.default_rng(1)
    return policy, jax.tree.map(lambda x: x + rng.normal(0, 0.2, x.shape), adapter), base


def mean_loss(policy, params, dropout_key=None):
    hidden = policy.completions(params, PROMPTS, PROMPT_MASK, COMPLETIONS, dropout_key=dropout_key)
    logp, _ = chunked_token_logprobs(hidden, policy.unembed(params), COMPLETIONS, chunk_size=8)
    return -logp.mean()


def written(jaxpr):
    """(primitive, shape) of all that a program and those inside it compute."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            yield equation.primitive.name, out.aval.shape
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from written(inner)


def frozen_gradients(policy, adapter, base, gradient_of):
    """What a gradient's program computes that has the shape of a frozen parameter's gradient."""
    program = jax.make_jaxpr(gradient_of)(adapter, base)
    kernels = [base["layers"][name]["kernel"].shape for name in PROJECTIONS]
    shapes = {size for _, *one in kernels for size in (tuple(one), tuple(one[::-1]))}
    table = base["embed"]["embedding"].shape
    # Of these shapes, what only reads a parameter: a slice of the layers, a cast, a transpose.
    reads = {"convert_element_type", "transpose", "slice", "dynamic_slice", "squeeze", "reshape"}
    reads |= {"optimization_barrier"}
    return [
        (primitive, shape)
        for primitive, shape in written(program.jaxpr)
        if (shape in shapes | {table} and primitive not in reads)
        or (shape in {tuple(kernel) for kernel in kernels} and primitive == "scan")
    ]


@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gradient_of_a_frozen_parameter_is_computed_or_stored(remat, dtype):
    policy, adapter, base = remat_policy(remat, dtype, dtype)

    def loss(adapter, base):
        return mean_loss(policy, join_adapter(adapter, base))

    assert frozen_gradients(policy, adapter, base, jax.grad(loss)) == []
    # The same search finds all of them where they are.
    found = frozen_gradients(policy, adapter, base, jax.grad(loss, argnums=1))
    frozen = [base["layers"][name]["kernel"] for name in PROJECTIONS] + [base["unembed_weight"]]
    assert {leaf.shape for leaf in frozen} <= {shape for _, shape in found}


@pytest.mark.parametrize("remat", [name for name in REMAT if name != "none"])
def test_rematerialised_gradients_draw_the_same_dropout(remat):
    policy, adapter, base = remat_policy(remat)
    plain, _, _ = remat_policy("none")

    def gradient(policy):
        def loss(adapter, base):
            return mean_loss(policy, join_adapter(adapter, base), jax.random.key(5))

        return jax.jit(jax.value_and_grad(loss))(adapter, base)

    assert_close(gradient(policy), gradient(plain))


def test_a_bfloat16_base_stays_and_its_adapter_learns_in_float32():
    policy, adapter, base = remat_policy("full", "bfloat16", "bfloat16")

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(adapter, base):
        params = join_adapter(adapter, base)
        hidden = policy.rows(params, row(IDS))
        return (hidden.astype(jnp.float32) ** 2).sum(), hidden

    (_, hidden), gradient = run(adapter, base)
    assert hidden.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype("float32")}
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradient))
    wide, exact, same = remat_policy("full")
    assert jax.tree.structure(same) == jax.tree.structure(base)
    up = jax.tree.map(lambda x: x.astype(jnp.float32), base)
    expected = rows(wide, join_adapter(exact, up), row(IDS))
    difference = np.abs(hidden.astype(jnp.float32) - expected)
    assert difference.max() < 0.1 * np.abs(expected).max()  # 9 layers of 8 bits


def kept(key, layer, projection, size=16, dropout=0.25):
    """The factors of x: with A = B = 1 and r = alpha the adapter gives back what it took in."""
    eye = jnp.stack([jnp.eye(size)] * 3)
    lora = Lora(size, float(size), dropout, ("query", "key"))
    layers = {name: {"lora_a": eye, "lora_b": eye} for name in lora.projections}
    adapter = jax.tree.map(lambda x: x[layer], Adapter.of({"layers": layers}, lora, key))
    x = jnp.ones((200, size))
    return np.asarray(adapter.add(jnp.zeros_like(x), projection, x))


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    factors = kept(jax.random.key(0), 0, "query")
    np.testing.assert_allclose(np.unique(factors), [0, 1 / 0.75], rtol=1e-6)
    # Five standard deviations of the mean of 3,200 factors of variance 1/3.
    assert abs(factors.mean() - 1) < 5 * math.sqrt(1 / 3 / factors.size)
    np.testing.assert_array_equal(kept(None, 0, "query"), 1)
    np.testing.assert_array_equal(kept(jax.random.key(0), 0, "query", dropout=0.0), 1)


def test_dropout_is_drawn_by_key_layer_and_projection():
    first = kept(jax.random.key(0), 0, "query")
    np.testing.assert_array_equal(first, kept(jax.random.key(0), 0, "query"))
    others = [(jax.random.key(1), 0, "query"), (jax.random.key(0), 1, "query"),
              (jax.random.key(0), 0, "key")]  # fmt: skip
    for other in others:
        # Independent draws agree in 0.75² + 0.25² of all places.
        assert abs((first == kept(*other)).mean() - 0.625) < 0.05


def test_without_a_key_there_is_no_dropout_and_with_one_it_repeats():
    policy, adapter, base = adapted()
    certain = Lora(ALL.rank, ALL.alpha, 0.0, ALL.targets)
    never, _, _ = adapted(certain)
    params = join_adapter(adapter, base)
    exact = together(policy, params)
    np.testing.assert_array_equal(exact, together(never, params))

    @functools.partial(jax.jit, static_argnums=0)
    def dropped(policy, key):
        return (
            policy.rows(params, row(IDS), dropout_key=key),
            policy.completions(params, PROMPTS, PROMPT_MASK, COMPLETIONS, dropout_key=key),
        )

    one, again, other = (dropped(policy, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    for first, second in zip(one, other, strict=True):
        assert np.abs(first - second).max() > 0.01
    one, other = (dropped(never, jax.random.key(seed)) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_scanned_and_unrolled_layers_draw_the_same_dropout():
    policy, adapter, base = remat_policy("none")
    model = policy.bind(base)
    own = Adapter.of(adapter, policy.lora, jax.random.key(3))
    positions = jnp.broadcast_to(jnp.arange(IDS.shape[1]), IDS.shape)
    attend = Causal(jnp.ones(IDS.shape, jnp.int32))
    scanned, unrolled = (
        model(IDS, positions, attend, caches, adapter=own)[0] for caches in (None, [None] * 9)
    )
    assert_close(unrolled, scanned)
