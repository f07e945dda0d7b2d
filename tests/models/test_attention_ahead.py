"""Several new tokens of completions with unequally many: the attention, computed one by one."""

import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.models import kv_cache
from cotjax.models.attention_ahead import DecodeAhead
from cotjax.models.attention_scores import Scoring

BATCH, GROUP, NEW, KEYS, SHARE, WIDTH, PROMPT, COLUMNS = 2, 3, 2, 2, 2, 4, 5, 9
FILLED = np.array([[0, 3, 7], [2, 2, 5]])
MASK = np.array([[False, True, True, True, True], [True] * 5])


def attended(query, keys, values, seen):
    """One query [D] over keys [S, D]."""
    scores = np.where(seen, keys @ query / WIDTH**0.5, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("columns", [COLUMNS, 300])
def test_each_new_token_sees_the_prompt_its_completion_and_those_before_it(window, columns):
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    prompt_key, prompt_value = draw(BATCH, KEYS, PROMPT, WIDTH), draw(BATCH, KEYS, PROMPT, WIDTH)
    own_key = draw(BATCH, KEYS, GROUP, columns, WIDTH)
    own_value = draw(BATCH, KEYS, GROUP, columns, WIDTH)
    query = draw(BATCH, GROUP * NEW, KEYS * SHARE, WIDTH)
    key, value = draw(BATCH, GROUP * NEW, KEYS, WIDTH), draw(BATCH, GROUP * NEW, KEYS, WIDTH)
    kept = lambda x: kv_cache.Kept(jnp.asarray(x))  # noqa: E731
    cache = (
        kept(np.swapaxes(prompt_key, -1, -2)),
        kept(prompt_value),
        [(kept(np.swapaxes(own_key, -1, -2)), kept(own_value))],
    )
    attend = DecodeAhead(jnp.asarray(MASK), jnp.asarray(FILLED), NEW)
    scoring = Scoring(window=window)
    out, (_, _, [(new_key, new_value)]) = attend(query, key, value, cache, scoring)

    expected_key, expected_value = own_key.copy(), own_value.copy()
    for b in range(BATCH):
        for g in range(GROUP):
            for i in range(NEW):
                expected_key[b, :, g, FILLED[b, g] + i] = key[b, g * NEW + i]
                expected_value[b, :, g, FILLED[b, g] + i] = value[b, g * NEW + i]
    np.testing.assert_array_equal(np.swapaxes(new_key.values, -1, -2), expected_key)
    np.testing.assert_array_equal(new_value.values, expected_value)
    for b, g, i, head in np.ndindex(BATCH, GROUP, NEW, KEYS * SHARE):
        number, k = FILLED[b, g] + i, head // SHARE
        behind = PROMPT + number - np.arange(PROMPT)
        own = number - np.arange(columns)
        seen = np.concatenate([MASK[b], own >= 0])
        if window:
            seen &= np.concatenate([behind, own]) < window
        mixed = attended(
            query[b, g * NEW + i, head],
            np.concatenate([prompt_key[b, k], expected_key[b, k, g]]),
            np.concatenate([prompt_value[b, k], expected_value[b, k, g]]),
            seen,
        )
        np.testing.assert_allclose(out[b, g * NEW + i, head], mixed, rtol=1e-4, atol=1e-5)
