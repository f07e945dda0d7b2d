"""Writes tests/golden: tiny checkpoints by transformers, and what torch computes from them.

Logits, and the gradient of a masked cross-entropy with respect to every tensor, of each example
alone in a row without padding. Run in an environment with the [parity] extra; the numbers that
are committed are checked by test_parity.py, which needs neither torch nor a model from anywhere:

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
# torch keeps the gradient of a padding token's embedding at zero; here no token is one.
_GEMMA = {"num_hidden_layers": 3, "head_dim": 8, "query_pre_attn_scalar": 5, "pad_token_id": None}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
_LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
# Together: tied and untied embeddings, one and several query heads per key head, a head size
# that is not hidden / heads, biases, query and key norms, other rotary bases and epsilons, every
# stretching of positions, windows by either rule, soft caps low enough to matter.
CASES = {
    "llama": ("LlamaConfig", {**_SIZES, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama_untied": (
        "LlamaConfig",
        {**_SIZES, "num_key_value_heads": 1, "head_dim": 8, "tie_word_embeddings": False}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}},
    ),
    "llama_llama3": (
        "LlamaConfig",
        {**_SIZES, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 512}
        | {"rope_parameters": {**_LLAMA3, "original_max_position_embeddings": 64}},
    ),
    "qwen2": ("Qwen2Config", {**_SIZES, "tie_word_embeddings": False}),
    "qwen2_tied": (
        "Qwen2Config",
        {**_SIZES, "num_key_value_heads": 4, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}},
    ),
    "qwen2_yarn_window": (
        "Qwen2Config",
        {**_SIZES, "num_hidden_layers": 3, "tie_word_embeddings": True}
        | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
        | {"rope_parameters": {**_YARN, "original_max_position_embeddings": 64}}
        | {"max_position_embeddings": 256},
    ),
    "qwen3": ("Qwen3Config", {**_SIZES, "head_dim": 10, "tie_word_embeddings": False}),
    "qwen3_yarn": (
        "Qwen3Config",
        {**_SIZES, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 64}
        | {"rope_parameters": {**_YARN, "attention_factor": 1.3, "beta_fast": 8, "beta_slow": 2}}
        | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
    ),
    "smollm3": (
        "SmolLM3Config",
        {**_SIZES, "num_hidden_layers": 4, "tie_word_embeddings": True, "pad_token_id": None}
        | {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 4},
    ),
    "granite": (
        "GraniteConfig",
        {**_SIZES, "tie_word_embeddings": True, "embedding_multiplier": 6.0}
        | {"attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 7.0},
    ),
    "gemma2": (
        "Gemma2Config",
        {**_SIZES, **_GEMMA}
        | {"sliding_window": 4, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {**_SIZES, **_GEMMA}
        | {"sliding_window": 4, "sliding_window_pattern": 2, "rope_local_base_freq": 100.0}
        | {"rope_theta": 1e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
}


def inputs(vocab_size: int) -> dict[str, Any]:
    """Five rows of 12 tokens: full, padded left, padded right, far positions, and two packed."""
    rng = np.random.default_rng(0)
    segment = np.ones((5, 12), np.int32)
    segment[1, :4] = segment[2, 9:] = 0
    segment[4, 5:] = 2
    positions = np.maximum(np.cumsum(segment > 0, axis=1) - 1, 0).astype(np.int32)
    positions[3] += 8000
    positions[4, 5:] -= 5
    tokens, targets = rng.integers(0, vocab_size, (2, *segment.shape), dtype=np.int32)
    counts = (segment > 0) & (rng.random(segment.shape) < 0.8)  # where the loss looks
    named = {"tokens": tokens, "segment": segment, "positions": positions}
    return named | {"targets": targets, "counts": counts}


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
            centre = 1.0 if "norm" in name and "gemma" not in config.model_type else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape))
    return model


def torch_logits(model: Any, batch: dict[str, Any]) -> Any:
    """[B, S, V] float32 on the tape, each example alone in a row; padding has zeros."""
    torch = importlib.import_module("torch")
    rows = []
    for tokens, segment, positions in zip(
        batch["tokens"], batch["segment"], batch["positions"], strict=True
    ):
        row = torch.zeros(len(tokens), model.config.vocab_size)
        for number in set(segment.tolist()) - {0}:
            own = np.flatnonzero(segment == number)
            logits = model(
                input_ids=torch.from_numpy(tokens[own])[None].long(),
                position_ids=torch.from_numpy(positions[own])[None].long(),
                use_cache=False,
            ).logits[0]
            row = row.index_put((torch.from_numpy(own),), logits)
        rows.append(row)
    return torch.stack(rows)


def torch_logits_and_gradients(
    model: Any, batch: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and by tensor the gradient of the mean cross-entropy where `counts`."""
    torch = importlib.import_module("torch")
    logits = torch_logits(model, batch)
    counts = torch.from_numpy(batch["counts"])
    targets = torch.from_numpy(batch["targets"]).long()
    torch.nn.functional.cross_entropy(logits[counts], targets[counts]).backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return logits.detach().numpy(), gradients


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
        logits, gradients = torch_logits_and_gradients(model, batch)
        named = {f"gradient/{name}": gradient for name, gradient in gradients.items()}
        np.savez_compressed(
            GOLDEN / case / "golden.npz", logits=logits, recipe=_recipe(), **batch, **named
        )


def _write_smollm2() -> None:
    import transformers

    from cotjax.models.formats.load import resolve

    torch = importlib.import_module("torch")
    file = resolve("smollm2-135m")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokens = np.array([tokenizer.encode(SMOLLM2_PROMPT)], np.int32)
    segment = np.ones_like(tokens)
    batch = {"tokens": tokens, "segment": segment, "positions": np.cumsum(segment, axis=1) - 1}
    with torch.no_grad():
        logits = torch_logits(model.eval(), batch).numpy()[..., ::SMOLLM2_STRIDE]
    np.savez_compressed(GOLDEN / "smollm2-135m.npz", logits=logits, recipe=_recipe(), **batch)


if __name__ == "__main__":
    _write_tiny()
    _write_smollm2()
