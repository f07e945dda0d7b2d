"""A policy computes the same numbers however it is called: packed, shared, cached, unrolled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.errors import InputError
from cotjax.interfaces import TokenBatch
from cotjax.models.attention import Causal
from cotjax.models.policy import Policy, prompt_positions
from cotjax.models.rope import Rope
from cotjax.models.transformer import REMAT, Transformer
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement
from tests.tiny import SHAPE, make_model, make_policy

TOLERANCE = 1e-5  # of the largest number compared, float32
BATCH, GROUP, PROMPT, OWN = 2, 3, 6, 4
PROMPT_MASK = np.array([[0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]], bool)
WINDOWS = {
    "layer_types": ("sliding_attention", "sliding_attention", "full_attention") * 3,
    "sliding_window": 3,
    "local_rope": Rope(100.0),
}
SHAPES = {
    "grouped": SHAPE,
    "everything": dataclasses.replace(
        SHAPE, num_kv_heads=1, qkv_bias=True, qk_norm=True, tie_embeddings=True
    ),
    # Narrower than the prompts, so that completions leave them behind; wider than one token.
    "gemma": dataclasses.replace(
        SHAPE,
        num_layers=3,
        qk_norm=True,
        activation="gelu_pytorch_tanh",
        scale_embeddings=True,
        offset_norms=True,
        post_norms=True,
        query_scalar=5,
        attention_softcap=2.0,
        **(WINDOWS | {"layer_types": WINDOWS["layer_types"][:3]}),
    ),
}


def assert_close(one, other):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * np.abs(b).max()),
        one,
        other,
    )


def tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(3, SHAPE.vocab_size, shape).astype(np.int32)


def row(ids):
    """Each row one example."""
    ids = np.asarray(ids)
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return TokenBatch(ids, ids, np.ones(ids.shape), np.ones(ids.shape, int), positions)


PROMPTS, COMPLETIONS = tokens(BATCH, PROMPT), tokens(BATCH, GROUP, OWN, seed=1)
rows = jax.jit(Policy.rows, static_argnums=0)
completions = jax.jit(Policy.completions, static_argnums=0)


def together(policy, params):
    return completions(policy, params, PROMPTS, PROMPT_MASK, COMPLETIONS)


def alone(policy, params):
    """Each completion behind its prompt in a row of its own, which is padded on the right."""
    ids = np.zeros((BATCH * GROUP, PROMPT + OWN), np.int32)
    starts = PROMPT_MASK.sum(axis=1).repeat(GROUP)
    for i, start in enumerate(starts):
        b, g = divmod(i, GROUP)
        ids[i, : start + OWN] = [*PROMPTS[b, PROMPT_MASK[b]], *COMPLETIONS[b, g]]
    places = starts[:, None] - 1 + np.arange(OWN)
    hidden = rows(policy, params, row(ids))
    return hidden[np.arange(len(ids))[:, None], places].reshape(BATCH, GROUP, OWN, -1)


@pytest.mark.parametrize("shape", SHAPES)
def test_completions_equal_each_completion_alone_and_have_its_gradient(shape):
    policy, params = make_policy(SHAPES[shape])
    pull = np.random.default_rng(2).normal(size=(BATCH, GROUP, OWN, SHAPE.hidden_size))

    def pulled(call, params):
        hidden = call(policy, params)
        return (hidden * pull).sum(), hidden

    values = [
        jax.jit(jax.value_and_grad(functools.partial(pulled, call), has_aux=True))(params)
        for call in (together, alone)
    ]
    ((_, hidden), ours), ((_, expected), theirs) = values
    assert_close(hidden, expected)
    assert_close(ours, theirs)


def test_left_padding_its_width_and_its_content_change_nothing():
    policy, params = make_policy()
    wider = np.pad(PROMPT_MASK, ((0, 0), (3, 0)))
    filled = np.where(wider, np.pad(PROMPTS, ((0, 0), (3, 0))), tokens(BATCH, PROMPT + 3, seed=5))
    padded = completions(policy, params, filled, wider, COMPLETIONS)
    assert_close(padded, together(policy, params))


def test_prompt_positions_count_real_tokens():
    np.testing.assert_array_equal(
        prompt_positions(jnp.asarray(PROMPT_MASK)), [[0, 0, 1, 2, 3, 4], [0, 0, 0, 0, 1, 2]]
    )


def test_a_later_token_changes_nothing_before_it_and_a_sibling_nothing_at_all():
    policy, params = make_policy()
    changed = COMPLETIONS.copy()
    changed[:, 1, 2] += 1
    hidden = completions(policy, params, PROMPTS, PROMPT_MASK, changed)
    difference = np.abs(hidden - together(policy, params)).max(axis=-1)
    # Position t of the result predicts token t: it has seen the tokens before t.
    assert (difference[:, 1, 3] > 1e-3).all()
    difference[:, 1, 3] = 0
    assert (difference < TOLERANCE).all()


def packed(ids):
    """A row of three examples and padding."""
    segment = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0, 0]])
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 0, 1, 0, 0]])
    return TokenBatch(ids, ids, np.ones(ids.shape), segment, positions)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_examples_do_not_see_each_other(shape):
    policy, params = make_policy(SHAPES[shape])
    ids = tokens(1, 11)
    hidden = rows(policy, params, packed(ids))
    for start, end in ((0, 3), (3, 7), (7, 9)):
        assert_close(hidden[:, start:end], rows(policy, params, row(ids[:, start:end])))


@pytest.mark.parametrize("shape", SHAPES)
def test_perturbing_one_packed_example_leaves_the_others_as_they_were(shape):
    policy, params = make_policy(SHAPES[shape])
    ids, changed = tokens(1, 11), tokens(1, 11)
    changed[:, 3:7] = tokens(1, 4, seed=9)
    hidden, after = (rows(policy, params, packed(x)) for x in (ids, changed))
    np.testing.assert_array_equal(hidden[:, [0, 1, 2, 7, 8]], after[:, [0, 1, 2, 7, 8]])
    assert (hidden[:, 3:7] != after[:, 3:7]).any(axis=-1).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_no_gradient_crosses_between_packed_examples(shape):
    policy, params = make_policy(SHAPES[shape])
    ids = 3 + np.arange(11, dtype=np.int32)[None]  # a row of the embedding for each place

    @jax.jit
    @jax.grad
    def gradient(params):
        hidden = rows(policy, params, packed(ids))
        return (hidden[:, [0, 1, 2, 7, 8]] ** 3).sum()

    by_place = np.asarray(gradient(params)["embed"]["embedding"])[3:14]
    assert (by_place[3:7] == 0).all()
    assert (by_place[[0, 1, 2, 7, 8]] != 0).any(axis=-1).all()


def decoded(policy, params):
    """What `together` gives, token by token from a cache."""

    @jax.jit
    def cached(params):
        mask = PROMPT_MASK & (jnp.arange(PROMPT_MASK.shape[1]) < PROMPT_MASK.shape[1] - 1)
        prompts = policy.prefill(params, jnp.roll(PROMPTS, 1, axis=1), jnp.roll(mask, 1, axis=1))
        own = policy.own_caches(prompts, rows=BATCH, group=GROUP, max_new_tokens=OWN)
        last = jnp.broadcast_to(PROMPTS[:, -1:, None], (BATCH, GROUP, 1))
        read = jnp.concatenate([last, COMPLETIONS[:, :, :-1]], axis=2)
        outs = []
        for index in range(OWN):
            filled, clock = jnp.full(BATCH, index), jnp.int32(index)
            now = read[:, :, index], jnp.roll(mask, 1, axis=1), filled, clock, (prompts, own)
            hidden, own = policy.decode(params, policy.unstacked(params), *now)
            outs.append(hidden)
        return jnp.stack(outs, axis=2)

    return cached(params)


def on_a_mesh(policy):
    """The policy as a run has it: on a CPU it decodes with turned kernels."""
    return dataclasses.replace(policy, placement=placement(make_mesh(1)))


@pytest.mark.parametrize("where", ["anywhere", "on a mesh"])
@pytest.mark.parametrize("shape", SHAPES)
def test_prefill_and_decode_equal_the_full_forward(shape, where):
    policy, params = make_policy(SHAPES[shape])
    decoder = policy if where == "anywhere" else on_a_mesh(policy)
    assert (decoder.unstacked(params) is None) == (where == "anywhere")
    assert_close(decoded(decoder, params), together(policy, params))


@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("changes", [{}, WINDOWS], ids=["one kind", "two kinds"])
def test_scanned_layers_equal_one_layer_after_the_other(changes, remat):
    # More layers than are unrolled.
    model = make_model(dataclasses.replace(SHAPE, num_layers=9, **changes))
    ids, positions = tokens(1, 5), jnp.arange(5)[None]
    attend = Causal(jnp.ones((1, 5), jnp.int32), keep_cache=True)

    def call(remat, caches):
        model.remat = remat
        definition, params = nnx.split(model)

        def run(params):
            hidden, new = nnx.merge(definition, params)(ids, positions, attend, caches)
            return (hidden**3).sum(), (hidden, new)

        return jax.jit(jax.value_and_grad(run, has_aux=True))(params)

    (_, (hidden, scanned)), gradient = call(remat, None)
    (_, (expected, caches)), expected_gradient = call("none", [None] * 9)
    assert_close(hidden, expected)
    assert_close(scanned, jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches))
    assert_close(gradient, expected_gradient)


def test_an_unknown_remat_is_refused():
    with pytest.raises(InputError, match='model.remat = "some".*none, dots, full'):
        Transformer(SHAPE, rngs=nnx.Rngs(0), remat="some")


def test_a_model_survives_the_split_into_policy_and_parameters():
    model = make_model()
    policy, params = Policy.split(model)
    ids, positions = tokens(1, 5), jnp.arange(5)[None]
    attend = Causal(jnp.ones((1, 5), jnp.int32))
    call = jax.jit(lambda model: model(ids, positions, attend)[0])
    np.testing.assert_array_equal(call(policy.bind(params)), call(model))
    np.testing.assert_array_equal(policy.unembed(params), model.unembed)
    assert hash(policy) == hash(Policy.split(make_model(seed=1))[0])
