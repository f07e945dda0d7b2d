"""Every family decodes from its caches what its full forward computes; greedily, as transformers.

`python -m tests.rollout.test_families` prints what the formats of a cache do to log-probabilities.
"""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cotjax.core.logprobs import token_logprobs
from cotjax.interfaces import End, PromptBatch
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_model
from cotjax.models.policy import Policy
from cotjax.rollout.generate import generate
from cotjax.rollout.plan import Sampling
from tests.models.make_golden import CASES
from tests.models.make_golden import GOLDEN as FAMILIES
from tests.models.test_parity import needs_smollm2, needs_torch
from tests.rollout.make_golden import GOLDEN, NEW, greedy, open_smollm2

BATCH, PROMPT, GROUP, OWN = 4, 7, 4, 12  # longer than every window, which is 3 or 4
KEY = jax.random.key(5)
# Slots that are refilled, in the format that the model computes in; and all at once otherwise.
SETTINGS = Sampling(GROUP, OWN, eos_id=0, pad_id=1, rows=8, share=2)
# Most nats between sampler and trainer. The models are random, 0.3 wide in every direction, so
# that logits reach 100 and rounding shows as nowhere else.
BOUNDS = {"float32": 1e-4, "bfloat16": 0.35, "int8": 1.0}


@functools.cache
def open_family(case):
    return Policy.split(huggingface.load(FAMILIES / case))


def make_prompts(vocab_size):
    """Prompts of 4 to 7 tokens."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, vocab_size, (BATCH, PROMPT)).astype(np.int32)
    mask = np.arange(PROMPT) >= np.arange(BATCH)[:, None]
    return PromptBatch(np.where(mask, tokens, 1), mask, np.arange(BATCH, dtype=np.int32))


@functools.partial(jax.jit, static_argnums=0)
def full_forward(policy, params, prompts, tokens, mask):
    hidden = policy.completions(params, prompts.tokens, prompts.mask, tokens)
    return token_logprobs(policy.head(params)(hidden), tokens, mask=mask)


def gaps(policy, params, prompts, settings):
    """|sampler - trainer| of every sampled token, nats; the trainer has no cache."""
    rollout = generate(policy, params, prompts, KEY, settings=settings)
    expected = full_forward(policy, params, prompts, rollout.tokens, rollout.mask)
    return np.abs(rollout.logp - expected)[np.asarray(rollout.mask)]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_the_sampler_gives_the_log_probabilities_of_the_full_forward(case, dtype):
    policy, params = open_family(case)
    settings = SETTINGS if dtype == "float32" else dataclasses.replace(SETTINGS, rows=0, share=0)
    cached = dataclasses.replace(policy, cache_dtype=jnp.dtype(dtype))
    found = gaps(cached, params, make_prompts(policy.bind(params).shape.vocab_size), settings)
    assert len(found) > 50 and found.max() < BOUNDS[dtype]
    assert found.mean() < BOUNDS[dtype] / 5


# Refill, a narrower tail and devices move caches about; int8 has scales to be moved with them.


@pytest.mark.parametrize("case", ["qwen2", "gemma3"])
def test_slots_change_nothing_in_an_int8_cache(case):
    policy, params = open_family(case)
    policy = dataclasses.replace(policy, cache_dtype=jnp.dtype("int8"))
    prompts = make_prompts(policy.bind(params).shape.vocab_size)
    plain, refilled = (
        jax.device_get(generate(policy, params, prompts, KEY, settings=settings))
        for settings in (dataclasses.replace(SETTINGS, rows=0, share=0), SETTINGS)
    )
    np.testing.assert_array_equal(refilled.tokens, plain.tokens)
    np.testing.assert_allclose(refilled.logp, plain.logp, atol=1e-4)


# SmolLM2-135M, greedily, beside transformers.


@functools.cache
def open_ours():
    student = load_model(
        "smollm2-135m",
        init="pretrained",
        param_dtype=jnp.float32,
        compute_dtype=jnp.float32,
        seed=0,
    )
    return (*Policy.split(student.model), student.tokenizer)


def golden_prompts(golden, count=None):
    tokens, mask = golden["tokens"][:count], golden["mask"][:count]
    return PromptBatch(tokens, mask, np.arange(len(tokens), dtype=np.int32))


def written(prompts, eos_id):
    """Our greedy completions, without what stands behind their end."""
    policy, params, _ = open_ours()
    settings = Sampling(1, NEW, eos_id=eos_id, pad_id=eos_id, temperature=0.0)
    rollout = jax.device_get(generate(policy, params, prompts, KEY, settings=settings))
    assert not (rollout.end == End.NONFINITE).any()
    return [row[counts].tolist() for row, counts in
            zip(rollout.tokens[:, 0], rollout.mask[:, 0], strict=True)]  # fmt: skip


@needs_smollm2
def test_greedy_completions_of_smollm2_equal_golden_token_by_token():
    golden = np.load(GOLDEN)
    assert golden["tokens"].shape[0] == 20 and (golden["length"] == NEW).sum() > 10
    expected = [
        row[:length].tolist()
        for row, length in zip(golden["completion"], golden["length"], strict=True)
    ]
    assert written(golden_prompts(golden), int(golden["eos_id"])) == expected


@pytest.mark.parity
@needs_torch
@needs_smollm2
def test_greedy_completions_of_smollm2_equal_transformers():
    golden = np.load(GOLDEN)
    prompts, eos_id = golden_prompts(golden, 2), int(golden["eos_id"])
    _, model = open_smollm2()
    expected = [
        greedy(model, row[mask].tolist(), NEW, eos_id)[0]
        for row, mask in zip(prompts.tokens, prompts.mask, strict=True)
    ]
    assert written(prompts, eos_id) == expected


def main(count: int) -> None:
    """The gaps of each format on SmolLM2-135M, with sampling at temperature 1."""
    policy, params, _ = open_ours()
    golden = np.load(GOLDEN)
    prompts, eos_id = golden_prompts(golden, count), int(golden["eos_id"])
    settings = Sampling(2, NEW, eos_id=eos_id, pad_id=eos_id)
    print(f"{'cache':10}{'tokens':>8}{'mean':>10}{'99 %':>10}{'largest':>10}  nats per token")
    for dtype in BOUNDS:
        cached = dataclasses.replace(policy, cache_dtype=jnp.dtype(dtype))
        found = gaps(cached, params, prompts, settings)
        last = np.quantile(found, 0.99)
        print(f"{dtype:10}{len(found):8}{found.mean():10.1e}{last:10.1e}{found.max():10.1e}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
