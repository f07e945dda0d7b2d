"""Damaged files of every kind that is read: each must be an `InputError` or be read.

    python benchmarks/fuzz.py [--kinds gguf,toml] [--cases 100000] [--first 0]

Changes well-formed files at random (bits, bytes, lengths, values of keys, pieces cut out and
doubled) and reads them as a run does. Any other exception or warning, more than a second of
processor time beyond that of the file as it was, or 500 MB more than before is a failure, and
printed with the number of its case; `--first N --cases 1` is that case alone. Exits with 1 then.
"""

import argparse
import collections
import dataclasses
import functools
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from safetensors.numpy import save

from cotjax.config import load, to_toml
from cotjax.cot import NUMERIC, answers_equal, gold_of, parse_rationale
from cotjax.data.layouts import RecordReader
from cotjax.data.sources import read_records
from cotjax.errors import InputError
from cotjax.models.formats import huggingface, peft
from cotjax.models.formats.config_json import config_of
from cotjax.models.formats.gguf_gemma import open_gguf
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.formats.special_tokens import special_tokens
from cotjax.report import write_report

SECONDS, BYTES = 1.0, 500 * 10**6
Files = dict[str, bytes]
# What stands in place of a value, and what is put between others.
WORDS = [
    *(b"null", b"true", b"-1", b"0", b"1", b"2", b"7", b"1e400", b"-0.0", b"NaN", b"1e999", b"nan"),
    *(b"inf", b"2147483648", b"1000000000", b"18446744073709551615", b"9" * 400, b"9" * 5000),
    *(b"[]", b"{}", b'""', b'"x"', b"[1, 2]", b'{"a": 1}', b'["a"]', b"[[]]", b"[" * 2000),
    *(b'{"a":' * 2000, b'"../../etc/passwd"', b'"/etc/passwd"', b'"\\u0000"', b'"\\ud800"'),
    *(
        b"\xff",
        b"\x00",
        b"\x1b[2J",
        "\u2028\u202e".encode(),
        b"2026-01-01",
        b"\\",
        b'"',
        b"x" * 9000,
    ),
    *(b'"<script>alert(1)</script>"', b'"%s%n{0}{seed.__class__}"', b"\xef\xbb\xbf", b"\r", b"\n"),
]
EXTREMES = [0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1]
_VALUE = re.compile(rb'(?<=[:=\[,])\s*("(?:[^"\\]|\\.)*"|[^\s,:{}\[\]"]+)')


def changed(content: bytes, rng: random.Random) -> bytes:
    """A file with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        # Headers come first, and hold what a reader believes.
        size = len(content) if rng.random() < 0.5 else min(len(content), 4096)
        at = rng.randrange(size + 1)
        to = min(at + rng.choice((1, 2, 8, 40, 400)), len(content))
        match rng.randrange(9):
            case 0:
                content = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
            case 1:
                content = content[:at]
            case 2:
                content = content[:at] + content[to:]
            case 3:
                content = content[:to] + content[at:]
            case 4:
                width = rng.choice((4, 8))
                number = rng.choice(EXTREMES) % 256**width
                content = content[:at] + number.to_bytes(width, "little") + content[at + width :]
            case 5:
                content = content[:at] + rng.choice(WORDS) + content[at:]
            case _:
                if places := [found.span() for found in _VALUE.finditer(content[:200_000])]:
                    at, to = rng.choice(places)
                    content = content[:at] + rng.choice(WORDS) + content[to:]
    return content


def with_length(content: bytes, rng: random.Random) -> bytes:
    """A changed safetensors file, whose header mostly has the length that stands before it."""
    size = int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        return changed(content, rng)
    header = changed(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is damaged, and how it is read.

    Attributes:
      seeds: well-formed folders, of which one file is changed.
      check: reads a folder; raises InputError or returns.
    """

    seeds: Callable[[], list[Files]]
    check: Callable[[Path], None]


def _safetensors() -> list[Files]:
    rng = np.random.default_rng(0)
    half = {"a.weight": rng.normal(size=(3, 4)).astype(np.float16), "n": np.ones(3, np.float16)}
    full = {
        "b.weight": rng.normal(size=(2, 5)).astype(np.float32),
        "e": np.zeros((0, 2), np.float16),
    }
    index = {"weight_map": {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}}
    shards = {"one.safetensors": save(half), "two.safetensors": save(full)}
    adapter = {"base_model_name_or_path": "base", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0}
    return [
        {"model.safetensors": save(half | full, metadata={"format": "pt"})},
        {"model.safetensors.index.json": json.dumps(index).encode(), **shards},
        {
            "adapter_config.json": json.dumps(adapter).encode(),
            "adapter_model.safetensors": save(full, metadata={"base_fingerprint": "1"}),
        },
    ]


def _read_safetensors(folder: Path) -> None:
    if peft.is_peft(folder):
        peft.base_of(folder)
        return
    tensors = huggingface.SafetensorsFolder(folder)
    for name in tensors.shapes:
        np.isfinite(np.asarray(tensors.read(name), np.float32)).all()  # each of its numbers


def _gguf() -> list[Files]:
    import gguf

    rng = np.random.default_rng(0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for family in ("llama", "qwen2", "gemma3"):
            path = Path(folder, f"{family}.gguf")
            writer = gguf.GGUFWriter(path, family)
            writer.add_block_count(1)
            writer.add_context_length(64)
            writer.add_embedding_length(8)
            writer.add_feed_forward_length(16)
            writer.add_head_count(2)
            writer.add_head_count_kv(1)
            writer.add_key_length(4)
            writer.add_rope_freq_base(1e4)
            writer.add_layer_norm_rms_eps(1e-6)
            letters = [chr(code) for code in range(97, 107)]
            tokens = ["<s>", "</s>", *letters, "ab"]
            writer.add_token_list(tokens)
            writer.add_token_types([3, 3, *[1] * 11])
            if family == "gemma3":
                writer.add_sliding_window(16)
                writer.add_tokenizer_model("llama")
                writer.add_token_scores([0.0] * 13)
            else:
                writer.add_tokenizer_model("gpt2")
                writer.add_tokenizer_pre("smollm")
                writer.add_token_merges(["a b"])
            writer.add_bos_token_id(0)
            writer.add_eos_token_id(1)
            writer.add_chat_template("{{ messages[0]['content'] }}")
            quantised = gguf.GGMLQuantizationType.Q8_0
            packed = gguf.quants.quantize(rng.normal(size=(2, 32)).astype(np.float32), quantised)
            writer.add_tensor("token_embd.weight", rng.normal(size=(13, 8)).astype(np.float32))
            writer.add_tensor("blk.0.attn_q.weight", rng.normal(size=(8, 8)).astype(np.float16))
            writer.add_tensor("blk.0.ffn_up.weight", packed, raw_dtype=quantised)
            if family == "llama":
                writer.add_tensor("rope_freqs.weight", np.ones(2, np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            found.append({"model.gguf": path.read_bytes()})
    return found


def _read_gguf(folder: Path) -> None:
    file = open_gguf(folder / "model.gguf")
    readers = [lambda name=name: file.read(name) for name in file.shapes]
    if file.kind in ("llama", "qwen2", "gemma3"):
        readers += [file.architecture, file.ends, file.tokenizer]
    refused = None
    for read in readers:  # an error of one part hides none of another
        try:
            read()
        except InputError as error:
            refused = error
    if refused is not None:
        raise refused


def _configs() -> list[Files]:
    sizes = {"vocab_size": 432, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": [1, 2]}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    every = [
        {"model_type": "llama", "rope_scaling": llama3, "rope_theta": 5e5},
        {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
        {"model_type": "qwen3", "rope_scaling": {**yarn, "truncate": False, "mscale": 1.0}},
        {"model_type": "smollm3", "no_rope_layers": [0, 1], "unsloth_version": "1"},
        {"model_type": "granite", "logits_scaling": 8.0, "residual_multiplier": 0.2},
        {"model_type": "gemma2", "query_pre_attn_scalar": 4, "attn_logit_softcapping": 50.0},
        {"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention"]},
    ]
    ends = json.dumps({"eos_token_id": 1}).encode()
    return [
        {"config.json": json.dumps(sizes | one, indent=1).encode(), "generation_config.json": ends}
        for one in every
    ]


@functools.cache
def _tokenizer():
    return load_tokenizer(resolve("tiny"))


def _read_config(folder: Path) -> None:
    shape = huggingface.read_architecture(folder)
    huggingface.read_notes(folder)
    special_tokens(_tokenizer(), shape.vocab_size, huggingface.read_ends(folder), str(folder))
    config_of(shape, "float32")
    for kind in set(shape.kinds):
        assert np.isfinite(kind.rope.frequencies(shape.head_dim)).all()
    assert np.isfinite(shape.score_scale)


def _tomls() -> list[Files]:
    stages = ("grpo", "sft", "reconstruct", "rewrite", "distill", "bridge")
    written = [to_toml(load([f"--stage={stage}", "--name=x"])) for stage in stages]
    entries = '[[stages]]\nstage = "sft"\nsteps = 3\n[[stages]]\nstage = "grpo"\nname = "b"\n'
    return [{"run.toml": text.encode()} for text in (*written, entries)]


def _read_toml(folder: Path) -> None:
    to_toml(load(["--config", str(folder / "run.toml")]))


def _rows() -> list[Files]:
    step, ask = "48/2 = <<48/2=24>>24\n48+24 = <<48+24=72>>72\n#### 72", "How many?"
    chat = [{"role": "user", "content": ask}, {"role": "assistant", "content": step}]
    rows = [
        {"question": ask, "answer": step},
        {"problem": ask, "solution": r"So \boxed{72}.", "answer": "72"},
        {"messages": chat},
        {"question": ask, "answer": step, "thinking": "Hm.", "teacher": "big"},
    ]
    return [{"train.jsonl": (json.dumps(row) + "\n").encode() * 3} for row in rows]


def _read_rows(folder: Path) -> None:
    gold = functools.partial(gold_of, NUMERIC)
    read_records(str(folder / "train.jsonl"), RecordReader(gold, parse_rationale, answers_equal))


def _runs() -> list[Files]:
    line = {"kind": "train", "step": 1, "reward": 0.5, "bucket": 0, "accuracy": 0.5}
    line |= {"no_signal": 0.1, "teacher_0": 0.4}
    held_out = {"kind": "eval", "step": 1, "accuracy": 0.5, "accuracy_low": 0.4}
    lines = [line, held_out | {"accuracy_high": 0.6}, line | {"step": 2}]
    metrics = b"".join(json.dumps(one).encode() + b"\n" for one in lines)
    side = {"step": 0, "kind": "before", "id": "a", "question": "?", "gold": "4", "tokens": 9}
    side |= {"completion": "4", "reward": 1.0, "parts": {"correct": 1.0}, "end": "eos"}
    numbers = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "tokens": 90.0}
    result = {"before": numbers, "after": numbers, "seconds": 9.0, "steps": 2, "seed": 0}
    listed = {"stages": [{"name": "base", **numbers}, {"name": "sft", **numbers}], "steps": 2}
    result["programs"] = {"compiled": 1, "cached": 2, "seconds": 3.0}
    shared = {
        "config.toml": to_toml(load(["--stage=grpo", "--name=x", "--steps=2"])).encode(),
        "facts.json": json.dumps([["Batch", "{rollout[prompts]:,} prompts"]]).encode(),
        "completions.jsonl": b"".join(
            json.dumps(side | {"kind": kind}).encode() + b"\n"
            for kind in ("before", "after", "train")
        ),
    }
    ends = [shared | {"result.json": json.dumps(one).encode()} for one in (result, listed)]
    return [*ends, {"metrics.jsonl": metrics}]  # apart: its figures take a second


def _read_run(folder: Path) -> None:
    write_report(folder)


KINDS = {
    "safetensors": Kind(_safetensors, _read_safetensors),
    "gguf": Kind(_gguf, _read_gguf),
    "config.json": Kind(_configs, _read_config),
    "toml": Kind(_tomls, _read_toml),
    "jsonl": Kind(_rows, _read_rows),
    "run": Kind(_runs, _read_run),
}


def write(files: Files, folder: Path) -> None:
    """Puts files into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def well_formed(kind: Kind, seed: Files) -> float:
    """Reads files as they are; processor seconds, the first time with imports."""
    with tempfile.TemporaryDirectory() as folder:
        write(seed, Path(folder))
        began = time.process_time()
        kind.check(Path(folder))
        return time.process_time() - began


def case(
    kind: Kind, seeds: list[Files], number: int, folder: Path, allowed: float = SECONDS
) -> str:
    """What became of one case: "read", "refused", or what went wrong.

    Args:
      kind: of files.
      seeds: its well-formed folders.
      number: of the case; it decides which file is changed, and how.
      folder: an empty one.
      allowed: processor seconds.
    """
    rng = random.Random(number)
    files = dict(rng.choice(seeds))
    name = rng.choice(sorted(files))
    make = with_length if name.endswith(".safetensors") else changed
    files[name] = make(files[name], rng)
    write(files, folder)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        kind.check(folder)
        became = "read"
    except InputError:
        became = "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # tokenizers panics beside Exception
        became = f"{type(error).__name__}: {error}"[:200]
    seconds = time.process_time() - began
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if seconds > allowed:
        became = f"took {seconds:.1f} s"
    return f"took {grown / 1e6:.0f} MB" if grown > BYTES else became


def fuzz(name: str, first: int, cases: int) -> dict[int, str]:
    """Runs the cases of one kind; the failures by their numbers. Prints the counts."""
    kind, failures = KINDS[name], {}
    seeds, counts = kind.seeds(), collections.Counter[str]()
    allowed = SECONDS + max([well_formed(kind, seed) for seed in seeds * 2][len(seeds) :])
    began = time.process_time()
    for number in range(first, first + cases):
        with tempfile.TemporaryDirectory() as folder:
            became = case(kind, seeds, number, Path(folder), allowed)
        if became not in ("read", "refused"):
            failures[number] = became
            print(f"{name} {number}: {became}", flush=True)
        counts[became if became in ("read", "refused") else "failed"] += 1
    seconds = time.process_time() - began
    print(
        f"{name}: {cases} cases, {counts['refused']} refused, {counts['read']} read, "
        f"{counts['failed']} failed, {1e3 * seconds / max(cases, 1):.1f} ms each",
        flush=True,
    )
    return failures


def main() -> int:
    """Runs what the flags say; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    known = parser.parse_args()
    warnings.simplefilter("error")
    failed = [fuzz(name, known.first, known.cases) for name in known.kinds.split(",")]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
