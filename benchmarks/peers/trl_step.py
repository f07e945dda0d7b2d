"""One GRPO step of TRL's own `GRPOTrainer` on random weights; `peers.py` starts it.

The real trainer runs: `model.generate`, the reference's log-probabilities, the loss, the backward
pass, clipping and AdamW. The rollout is its generation call; the update is the rest of the step.
The end token is outside the model's vocabulary, so every completion has full length.
With `ragged`, `model.generate` alone runs, and every 40th token id ends a row: the batch decodes
until its longest row ends.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")

import torch  # noqa: E402
import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from trl import GRPOConfig, GRPOTrainer  # noqa: E402


def make_model(size: dict) -> transformers.LlamaForCausalLM:
    """Llama of the shape, tied embeddings, float32, random weights."""
    config = transformers.LlamaConfig(
        vocab_size=size["vocab"],
        hidden_size=size["hidden"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        head_dim=size["head_dim"],
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).float()


def make_tokenizer(vocab: int) -> transformers.PreTrainedTokenizerFast:
    """One word per id; the end token's id is `vocab`, which the model cannot draw."""
    words = {"<pad>": 0, **{f"t{i}": i for i in range(1, vocab)}, "<eos>": vocab}
    words["<unk>"] = vocab + 1
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


class TimedTrainer(GRPOTrainer):
    """`GRPOTrainer` that notes how long each generation took."""

    def _generate_single_turn(self, *args, **kwargs):
        began = time.perf_counter()
        out = super()._generate_single_turn(*args, **kwargs)
        self.rollouts.append(time.perf_counter() - began)
        if any(len(ids) != self.max_completion_length for ids in out[0]):
            raise AssertionError("a completion ended early")
        return out


class StepClock(transformers.TrainerCallback):
    """The time when each step, with its optimizer update, has ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *args, **kwargs):
        """Called by the trainer."""
        self.ends.append(time.perf_counter())


def measure(size: dict) -> dict:
    """Medians of the counted steps; the first one is not counted."""
    rows, steps = size["prompts"] * size["group"], size["steps"]
    draw = torch.Generator().manual_seed(0)
    wanted = size["prompts"] * (steps + 1), size["prompt_tokens"]
    ids = torch.randint(2, 400, wanted, generator=draw)
    data = Dataset.from_dict({"prompt": [" ".join(f"t{i}" for i in row) for row in ids.tolist()]})
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        make_model(size).save_pretrained(folder)
        make_tokenizer(size["vocab"]).save_pretrained(folder)
        config = GRPOConfig(
            output_dir=folder,
            model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
            per_device_train_batch_size=rows,
            num_generations=size["group"],
            max_completion_length=size["new_tokens"],
            max_steps=steps + 1,
            beta=0.04,
            loss_type="grpo",
            learning_rate=1e-6,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            folder,
            reward_funcs=lambda completions, **_: [float(len(c) % 7) for c in completions],
            args=config,
            train_dataset=data,
            processing_class=make_tokenizer(size["vocab"]),
            callbacks=[clock],
        )
        trainer.rollouts = []
        trainer.train()
    whole = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    rollouts = trainer.rollouts[1:]
    updates = [a - b for a, b in zip(whole, rollouts, strict=True)]
    rollout_s, update_s = statistics.median(rollouts), statistics.median(updates)
    return {
        "rollout_tok_s": rows * size["new_tokens"] / rollout_s,
        "update_tok_s": rows * (size["prompt_tokens"] + size["new_tokens"]) / update_s,
        "step_s": statistics.median(whole),
        "start_to_first_step_s": clock.ends[0] - STARTED,
    }


def ragged(size: dict) -> dict:
    """Useful tokens per second of `model.generate` when every 40th token id is an end."""
    model = make_model(size).eval()
    ends = list(range(0, size["vocab"], size["end_every"]))
    speeds = []
    for number in range(size["steps"] + 1):
        torch.manual_seed(number)
        prompts = torch.randint(2, 400, (size["prompts"], size["prompt_tokens"]))
        prompts = prompts.repeat_interleave(size["group"], 0)
        began = time.perf_counter()
        with torch.no_grad():
            out = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True, top_k=0, top_p=1.0, eos_token_id=ends, pad_token_id=0,
                max_new_tokens=size["new_tokens"],
            )  # fmt: skip
        took = time.perf_counter() - began
        ended = torch.isin(out[:, size["prompt_tokens"] :], torch.tensor(ends)).long()
        speeds.append(((ended.cumsum(1) - ended) == 0).sum().item() / took)
    return {"useful_tok_s": statistics.median(speeds[1:])}


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    settings = json.loads(sys.argv[1])
    numbers = ragged(settings) if settings["ragged"] else measure(settings)
    numbers["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(numbers))
