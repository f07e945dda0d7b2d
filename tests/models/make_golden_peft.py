"""Writes tests/golden/peft: an adapter folder by PEFT, and what torch computes with it.

The base is the checkpoint tests/golden/qwen2. Run in an environment with torch and peft:

    python -m tests.models.make_golden_peft
"""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.make_golden import GOLDEN, inputs, torch_logits

BASE = "qwen2"
FOLDER = GOLDEN / "peft"
SETTINGS = {"r": 3, "lora_alpha": 5, "lora_dropout": 0.1}


def torch_base(folder: Path) -> Any:
    """The checkpoint of a folder, by transformers."""
    import transformers

    torch = importlib.import_module("torch")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def peft_model(base: Any, seed: int) -> Any:
    """PEFT's adapter on every projection, no matrix of it zero."""
    torch, peft = importlib.import_module("torch"), importlib.import_module("peft")
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **SETTINGS)
    model = peft.get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


def logits_and_gradients(
    model: Any, batch: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and by tensor the gradient of the adapter; see `make_golden`."""
    torch = importlib.import_module("torch")
    logits = torch_logits(model, batch)
    counts = torch.from_numpy(batch["counts"])
    targets = torch.from_numpy(batch["targets"]).long()
    torch.nn.functional.cross_entropy(logits[counts], targets[counts]).backward()
    gradients = {
        name.replace(".default", ""): parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    return logits.detach().numpy(), gradients


def main() -> None:
    """Writes the folder."""
    model = peft_model(torch_base(GOLDEN / BASE), seed=0)
    batch = inputs(model.config.vocab_size)
    logits, gradients = logits_and_gradients(model, batch)
    model.save_pretrained(FOLDER)
    (FOLDER / "README.md").unlink()
    file = FOLDER / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BASE  # not a path of the machine that wrote it
    config["target_modules"].sort()
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    names = ("torch", "transformers", "peft")
    versions = {name: importlib.import_module(name).__version__ for name in names}
    recipe = json.dumps({"made_by": "tests/models/make_golden_peft.py"} | versions)
    named = {f"gradient/{name}": gradient for name, gradient in gradients.items()}
    np.savez_compressed(FOLDER / "golden.npz", logits=logits, recipe=recipe, **batch, **named)


if __name__ == "__main__":
    main()
