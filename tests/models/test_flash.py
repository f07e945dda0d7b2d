"""The flash kernel, interpreted: what the dense attention computes, value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models.attention import Causal, SharedPrompt
from cotjax.models.attention_scores import Scoring
from cotjax.models.flash import shared_prompt_mask
from cotjax.parallel.mesh import make_mesh
from cotjax.parallel.sharding import placement

BATCH, PROMPT, GROUP, OWN, HEADS, KV_HEADS, WIDTH = 4, 20, 3, 40, 4, 2, 16
SIZE = PROMPT + GROUP * OWN  # more than a block of 128, so that rows are filled up
PROMPT_MASK = np.arange(PROMPT) >= np.array([0, 3, 11, 19])[:, None]
SEGMENT = np.repeat([1, 2, 0], [70, 50, 20])[None].repeat(BATCH, 0)
TOLERANCE = 1e-5


def value_and_gradient(attend, scoring, real):
    rng = np.random.default_rng(0)
    inputs = [
        jnp.asarray(rng.normal(size=(BATCH, SIZE, heads, WIDTH)), jnp.float32)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    pull = rng.normal(size=(BATCH, SIZE, HEADS, WIDTH)) * real[..., None, None]

    def pulled(inputs):
        out, _ = attend(*inputs, None, scoring)
        return (out * pull).sum(), out * real[..., None, None]

    (_, out), slopes = jax.jit(jax.value_and_grad(pulled, has_aux=True))(inputs)
    return out, *slopes


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(
    "scoring", [Scoring(), Scoring(window=9), Scoring(softcap=5.0, scale=0.3)], ids=repr
)
@pytest.mark.parametrize("kind", ["rows", "shared"])
def test_the_kernel_is_the_dense_attention_and_has_its_gradient(kind, scoring, mesh):
    if kind == "rows":
        attend, real = functools.partial(Causal, jnp.asarray(SEGMENT)), SEGMENT > 0
    else:
        attend = functools.partial(SharedPrompt, PROMPT_MASK, GROUP)
        real = np.concatenate([PROMPT_MASK, np.ones((BATCH, GROUP * OWN), bool)], axis=1)
    flash = placement(make_mesh(*mesh), attention="flash")
    ours, dense = (
        value_and_gradient(attend(placement=place), scoring, real) for place in (flash, None)
    )
    for one, other in zip(ours, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_a_completion_sees_the_prompt_and_itself():
    mask = shared_prompt_mask(2, 2, 3, Scoring())
    rows = ["".join(".x"[int(seen)] for seen in row) for row in mask]
    assert rows == [
        *("x.......", "xx......"),  # the prompt, causally
        *("xxx.....", "xxxx....", "xxxxx..."),  # the first completion
        *("xx...x..", "xx...xx.", "xx...xxx"),  # the second
    ]


def test_a_window_counts_tokens_of_the_text_not_places_of_the_row():
    mask = shared_prompt_mask(2, 2, 3, Scoring(window=2))
    assert ["".join(".x"[int(seen)] for seen in row) for row in mask[5:]] == [
        *(".x...x..", ".....xx.", "......xx"),
    ]
