"""`python -m cotjax.data.build_tokenizer --out DIR`: the tiny student's tokenizer.

Byte-level BPE trained on the built-in problems: every word of theirs is one token, digits stand
alone, and any other text still round-trips through bytes.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from cotjax.data.problems import ProblemSource

SPECIAL = {"eos_token": "<|end|>", "pad_token": "<|pad|>", "mask_token": "<|mask|>"}


def _corpus(num_problems: int) -> Iterator[str]:
    for share in (0.0, 1.0):
        source = ProblemSource("train", 0, 1, 8, concise_share=share)
        for index in range(num_problems):
            record = source[index]
            steps = "".join(f"Step {i}: {step}\n" for i, step in enumerate(record.steps, 1))
            yield f"Question: {record.question}\n{steps}Answer: {record.answer}"


def build(vocab_size: int = 512, num_problems: int = 4000) -> Tokenizer:
    """Trains the tokenizer; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d| ?[A-Za-z]+|\s|[^\sA-Za-z\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(num_problems), trainer)
    return tokenizer


def main() -> None:
    """Writes tokenizer.json and tokenizer_config.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    build().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | SPECIAL, indent=2) + "\n")


if __name__ == "__main__":
    main()
