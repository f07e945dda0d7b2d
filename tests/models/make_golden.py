"""Writes tests/golden: tiny checkpoints by transformers and the logits that torch gives for them.

Run in an environment with the [parity] extra; the numbers that are committed are checked by
test_parity.py, which needs neither torch nor a model from anywhere:

    python tests/models/make_golden.py
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
SMOLLM2_PROMPT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips "
    "in May. How many clips did she sell altogether?"
)
SMOLLM2_STRIDE = 64  # Every 64th logit of each position keeps the file small.

_SIZES = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
# Together: tied and untied embeddings, one and several query heads per key head, a head size
# that is not hidden / heads, biases, query and key norms, other rotary bases and epsilons.
CASES = {
    "llama": ("LlamaConfig", {**_SIZES, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama_untied": (
        "LlamaConfig",
        {**_SIZES, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
    ),
    "qwen2": ("Qwen2Config", {**_SIZES, "tie_word_embeddings": False}),
    "qwen2_tied": (
        "Qwen2Config",
        {**_SIZES, "num_key_value_heads": 4, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}},
    ),
    "qwen3": ("Qwen3Config", {**_SIZES, "head_dim": 10, "tie_word_embeddings": False}),
}


def inputs(vocab_size: int) -> dict[str, Any]:
    """Four rows of 10: full, padded on the left, padded on the right, and at far positions."""
    rng = np.random.default_rng(0)
    mask = np.ones((4, 10), np.int32)
    mask[1, :4] = 0
    mask[2, 7:] = 0
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0).astype(np.int32)
    positions[3] += 8000
    tokens = rng.integers(0, vocab_size, mask.shape, dtype=np.int32)
    return {"tokens": tokens, "mask": mask, "positions": positions}


def random_model(case: str, seed: int) -> Any:
    """A transformers model in which no parameter has a value that hides it, such as bias 0."""
    import transformers

    torch = importlib.import_module("torch")
    class_name, options = CASES[case]
    torch.manual_seed(seed)
    config = getattr(transformers, class_name)(**options)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape))
    return model


def torch_logits(model: Any, batch: dict[str, Any]) -> np.ndarray:
    """[B, S, V] float32."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        return model(
            input_ids=torch.from_numpy(batch["tokens"]).long(),
            attention_mask=torch.from_numpy(batch["mask"]).long(),
            position_ids=torch.from_numpy(batch["positions"]).long(),
        ).logits.numpy()


def _recipe() -> str:
    import transformers

    torch = importlib.import_module("torch")
    return json.dumps(
        {
            "made_by": "tests/models/make_golden.py",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
    )


def _write_tiny() -> None:
    for case in CASES:
        model = random_model(case, seed=0)
        model.save_pretrained(GOLDEN / case)
        (GOLDEN / case / "generation_config.json").unlink()  # not read by the tests
        batch = inputs(model.config.vocab_size)
        logits = torch_logits(model, batch)
        np.savez_compressed(GOLDEN / case / "golden.npz", logits=logits, recipe=_recipe(), **batch)


def _write_smollm2() -> None:
    import transformers

    from cotjax.models.load import resolve

    torch = importlib.import_module("torch")
    file = resolve("smollm2-135m")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokens = np.array([tokenizer.encode(SMOLLM2_PROMPT)], np.int32)
    mask = np.ones_like(tokens)
    batch: dict[str, Any] = {
        "tokens": tokens,
        "mask": mask,
        "positions": np.cumsum(mask, axis=1) - 1,
    }
    logits = torch_logits(model.eval(), batch)[..., ::SMOLLM2_STRIDE]
    np.savez_compressed(GOLDEN / "smollm2-135m.npz", logits=logits, recipe=_recipe(), **batch)


if __name__ == "__main__":
    _write_tiny()
    _write_smollm2()
