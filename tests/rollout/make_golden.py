"""Writes tests/golden/smollm2-135m-greedy.npz: what transformers writes greedily, token by token.

Prompts are the first questions of GSM8K's test set, as token ids; the weights are those of the
GGUF file of SmolLM2-135M-Instruct, in float32. Run with the [parity] extra and the file:

    python -m tests.rollout.make_golden PATH/test.jsonl
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden" / "smollm2-135m-greedy.npz"
PROMPTS, NEW = 20, 64


def open_smollm2() -> tuple[Any, Any]:
    """(tokenizer, model) by transformers, float32."""
    import transformers

    from cotjax.models.formats.load import resolve

    torch = importlib.import_module("torch")
    file = resolve("smollm2-135m")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    return tokenizer, model.eval()


def greedy(model: Any, prompt: list[int], count: int, eos_id: int) -> tuple[list[int], float]:
    """The tokens that follow, and the least lead of a token over the second best, in logits."""
    torch = importlib.import_module("torch")
    with torch.no_grad():
        written = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
    leads = []
    for logits in written.logits:
        best, second = logits[0].topk(2).values.tolist()
        leads.append(best - second)
    return written.sequences[0, len(prompt) :].tolist(), min(leads)


def main(path: str) -> None:
    import transformers

    torch = importlib.import_module("torch")
    tokenizer, model = open_smollm2()
    lines = Path(path).read_text("utf-8").splitlines()[:PROMPTS]
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": json.loads(line)["question"]}],
            add_generation_prompt=True,
            return_dict=False,
        )
        for line in lines
    ]
    width = max(map(len, prompts))
    tokens = np.zeros((PROMPTS, width), np.int32)
    mask = np.zeros((PROMPTS, width), bool)
    completion = np.full((PROMPTS, NEW), tokenizer.eos_token_id, np.int32)
    length, lead = np.zeros(PROMPTS, np.int32), np.zeros(PROMPTS, np.float32)
    for n, prompt in enumerate(prompts):
        tokens[n, width - len(prompt) :], mask[n, width - len(prompt) :] = prompt, True
        own, lead[n] = greedy(model, prompt, NEW, tokenizer.eos_token_id)
        completion[n, : len(own)], length[n] = own, len(own)
        print(n, len(prompt), len(own), f"{lead[n]:.2g}", repr(tokenizer.decode(own))[:80])
    recipe = {
        "made_by": "python -m tests.rollout.make_golden PATH/test.jsonl",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    np.savez_compressed(
        GOLDEN,
        tokens=tokens,
        mask=mask,
        completion=completion,
        length=length,
        lead=lead,
        eos_id=tokenizer.eos_token_id,
        recipe=json.dumps(recipe),
    )


if __name__ == "__main__":
    main(sys.argv[1])
