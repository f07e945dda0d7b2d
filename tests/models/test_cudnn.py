"""cuDNN's attention: its layouts compute what the dense attention does, value and gradient.

There is no GPU here, so JAX's own formula stands in for the kernel; test_cudnn_programs.py looks at
the programs that a GPU would be given.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models import cudnn
from cotjax.models.attention import Causal, SharedPrompt
from cotjax.models.attention_scores import Scoring
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement

BATCH, PROMPT, GROUP, OWN, HEADS, KV_HEADS, WIDTH = 4, 9, 3, 8, 4, 2, 8
SIZE = PROMPT + GROUP * OWN  # odd, which the kernel's backward pass does not take with a mask
PROMPT_MASK = np.arange(PROMPT) >= np.array([0, 3, 5, 8])[:, None]
SEGMENT = np.repeat([1, 2, 0], [14, 12, 7])[None].repeat(BATCH, 0)
TOLERANCE = 1e-5
SCORINGS = [Scoring(), Scoring(window=5, scale=0.3)]


def value_and_gradient(attend, scoring, real, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(rng.normal(size=(BATCH, SIZE, heads, WIDTH)), dtype)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    pull = rng.normal(size=(BATCH, SIZE, HEADS, WIDTH)) * real[..., None, None]

    def pulled(inputs):
        out, _ = attend(*inputs, None, scoring)
        return (out.astype(jnp.float32) * pull).sum(), out * real[..., None, None]

    (_, out), slopes = jax.jit(jax.value_and_grad(pulled, has_aux=True))(inputs)
    return out, *slopes


def compare(attend, scoring, real, mesh=(1, 1, 1)):
    own = placement(make_mesh(*mesh), attention="cudnn")
    ours, dense = (
        value_and_gradient(attend(placement=place), scoring, real) for place in (own, None)
    )
    for one, other in zip(ours, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def shared():
    real = np.concatenate([PROMPT_MASK, np.ones((BATCH, GROUP * OWN), bool)], axis=1)
    return functools.partial(SharedPrompt, PROMPT_MASK, GROUP), real


@pytest.mark.parametrize("scoring", SCORINGS, ids=repr)
def test_packed_rows_are_the_dense_attention_with_its_gradient(scoring):
    compare(functools.partial(Causal, jnp.asarray(SEGMENT)), scoring, SEGMENT > 0)


@pytest.mark.parametrize("repeats", [True, False], ids=["rows", "mask"])
@pytest.mark.parametrize("scoring", SCORINGS, ids=repr)
def test_a_shared_prompt_is_the_dense_attention_with_its_gradient(monkeypatch, repeats, scoring):
    monkeypatch.setattr(cudnn, "repeats_prompt", lambda *_: repeats)
    compare(*shared()[:1], scoring, shared()[1])


@pytest.mark.parametrize("repeats", [True, False], ids=["rows", "mask"])
def test_eight_devices_compute_what_one_does(monkeypatch, repeats):
    monkeypatch.setattr(cudnn, "repeats_prompt", lambda *_: repeats)
    compare(*shared()[:1], Scoring(), shared()[1], mesh=(2, 2, 2))


def test_a_cache_is_kept_as_the_dense_attention_keeps_it():
    inputs = jax.random.normal(jax.random.key(0), (3, BATCH, PROMPT, KV_HEADS, WIDTH))
    attend = functools.partial(Causal, PROMPT_MASK.astype(np.int32), keep_cache=True)
    own = placement(make_mesh(1), attention="cudnn")
    ours, dense = (attend(placement=place)(*inputs, None)[1] for place in (own, None))
    jax.tree.map(np.testing.assert_array_equal, ours, dense)


def test_the_copies_gradients_of_a_prompt_are_summed_in_float32(monkeypatch):
    monkeypatch.setattr(cudnn, "repeats_prompt", lambda *_: True)
    rows = jnp.ones((1, 1 + 512, 1, 1), jnp.bfloat16)  # one prompt token, 512 completions
    shift = jnp.zeros(1, jnp.int32)
    slope = jax.grad(lambda x: cudnn._rows(x, shift, 1, 512).astype(jnp.float32).sum())(rows)
    assert slope[0, 0, 0, 0] == 512  # bfloat16 counts by ones to 256


def test_a_long_prompt_is_not_repeated():
    width = 1024
    assert cudnn.repeats_prompt(256, 8, 1024, width)
    assert not cudnn.repeats_prompt(1024, 8, 128, width)


def test_a_soft_cap_is_refused():
    with pytest.raises(ValueError, match="no soft cap"):
        compare(*shared()[:1], Scoring(softcap=5.0), shared()[1])
