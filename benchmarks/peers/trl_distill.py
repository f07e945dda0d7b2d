"""One distillation step of TRL's own `GKDTrainer` on random weights; `distill_peers.py` starts it.

The real trainer runs, off-policy (lmbda 0) with the forward KL (beta 0): both models' passes, the
loss, the backward pass, clipping and AdamW. It takes one teacher, so the two are one module whose
logits are the logarithm of their mixture: the same loss as ours.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import types  # noqa: E402

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from trl.experimental.gkd import GKDConfig, GKDTrainer  # noqa: E402
from trl_step import StepClock, make_model, make_tokenizer  # noqa: E402


class Mixture(torch.nn.Module):
    """Two teachers as one: log(½ p₁ + ½ p₂)."""

    def __init__(self, teachers):
        super().__init__()
        self.teachers = torch.nn.ModuleList(teachers)
        self.config = teachers[0].config

    def forward(self, **inputs):
        """An object with `logits`, as transformers' models return."""
        one, two = (teacher(**inputs).logits.log_softmax(-1) for teacher in self.teachers)
        return types.SimpleNamespace(logits=torch.logaddexp(one, two) - math.log(2))


def collate(examples: list[dict]) -> dict:
    """Full rows, of which every token counts."""
    ids = torch.tensor([example["input_ids"] for example in examples])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.clone(),
        "prompts": ids[:, :1],
        "prompt_attention_mask": torch.ones_like(ids[:, :1]),
    }


def measure(size: dict) -> dict:
    """Tokens per second of whole steps; the first is not counted."""
    rows, length, steps = size["rows"], size["length"], size["steps"]
    draw = torch.Generator().manual_seed(0)
    # One token more, as the first of a row has no target.
    ids = torch.randint(2, 400, (rows * (steps + 1), length + 1), generator=draw)
    data = Dataset.from_dict({"input_ids": ids.tolist()})
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        config = GKDConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            max_steps=steps + 1,
            lmbda=0.0,
            beta=0.0,
            temperature=1.0,
            max_length=None,
            learning_rate=1e-6,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GKDTrainer(
            make_model(size),
            teacher_model=Mixture([make_model(size).eval() for _ in range(2)]),
            args=config,
            train_dataset=data,
            data_collator=collate,
            processing_class=make_tokenizer(size["vocab"]),
            callbacks=[clock],
        )
        trainer.train()
    seconds = statistics.median(b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False))
    return {
        "step_tok_s": rows * length / seconds,
        "step_s": seconds,
        "start_to_first_step_s": clock.ends[0] - STARTED,
    }


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    numbers = measure(json.loads(sys.argv[1]))
    numbers["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(numbers))
