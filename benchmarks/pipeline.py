"""CPU time per supervised example: masking, shuffling, tokens and packing, cold and warm.

`python benchmarks/pipeline.py --data PATH/train.jsonl [--model smollm2-135m]`

Cold is the first epoch, in which every line is tokenised; warm are those that follow. CPU time,
not wall time, so that other programs on the machine do not count.
"""

import argparse
import os
import time

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np  # noqa: E402

from cotjax import Config, load_records  # noqa: E402
from cotjax.data.pipeline import EXAMPLES_PACKED, supervised_batches  # noqa: E402
from cotjax.data.prompts import make_prompts  # noqa: E402
from cotjax.data.token_cache import TokenCache  # noqa: E402
from cotjax.models.formats import gguf  # noqa: E402
from cotjax.models.formats.load import load_tokenizer, resolve  # noqa: E402
from cotjax.stages.reconstruct import Reconstruction  # noqa: E402
from cotjax.stages.supervised import Solution  # noqa: E402

ROWS, LENGTH = 32, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="GSM8K's train.jsonl")
    parser.add_argument("--model", default="tiny", help="whose tokenizer")
    parser.add_argument("--epochs", type=int, default=3, help="warm epochs")
    arguments = parser.parse_args()
    path = resolve(arguments.model)
    tokenizer = gguf.File(path).tokenizer() if path.is_file() else load_tokenizer(path)
    config = Config.for_stage(
        "reconstruct",
        model={"path": arguments.model},
        data={"source": "jsonl", "path": arguments.data},
        batch={"size": ROWS, "sequence_length": LENGTH},
        rollout={"max_prompt_tokens": LENGTH},
        eval={"problems": 1},
    )
    records, _ = load_records(config)
    prompts = make_prompts(tokenizer, "auto")
    solution = Solution(TokenCache(tokenizer), prompts, tokenizer.eos_token_id, LENGTH)
    encode = Reconstruction(solution, config.reconstruct, config.mask, tokenizer)
    stream = supervised_batches(records, encode, seed=0, batch_size=ROWS, sequence_length=LENGTH)
    for name, epochs in (("cold", 1), ("warm", arguments.epochs)):
        examples = tokens_seen = places = 0
        began, wall = time.process_time(), time.perf_counter()
        while examples < epochs * len(records):
            batch = next(stream)
            examples += int(np.asarray(batch.segment).max(axis=1).sum())
            tokens_seen += int((np.asarray(batch.segment) > 0).sum())
            places += batch.tokens.size
        seconds = time.process_time() - began
        print(
            f"{name}: {examples / seconds:,.0f} examples/s/core, {seconds / examples * 1e6:.1f} µs "
            f"each ({examples} examples of {tokens_seen / examples:.0f} tokens, rows "
            f"{tokens_seen / places:.1%} full, {time.perf_counter() - wall:.1f} s)"
        )
    stream.close()
    print(f"blocks of {EXAMPLES_PACKED} examples, rows of {LENGTH} tokens")


if __name__ == "__main__":
    main()
