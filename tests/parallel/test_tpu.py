"""What the TPU compiler makes of the update, on machines without a TPU (needs libtpu)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 10,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


def compiled(folder, script, *flags):
    """The numbers that a benchmark prints of a program for a slice."""
    pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'cotjax[aot]'")
    (folder / "shape.json").write_text(json.dumps(SHAPE))
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--json"]
    command += ["--topology=v5e:2x2", "--shape", str(folder / "shape.json"), *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--lora.rank=8"]], ids=["full", "lora"])
def test_a_shared_prompt_compiles_to_the_flash_kernel_without_scores(tmp_path, flags):
    lengths = "--rollout.max-prompt-tokens=192", "--rollout.max-new-tokens=128"
    numbers = compiled(tmp_path, "tpu_update.py", *lengths, *flags)
    assert numbers["flash_kernels"] >= 2 and numbers["score_arrays"] == 0
    assert 0 < numbers["hbm_gib"] < numbers["hbm_limit_gib"]


@pytest.mark.slow
def test_a_token_copies_no_cache_and_exchanges_parts_of_logits(tmp_path):
    prompts, group, length, heads = 8, 4, 512, 2
    flags = f"--rollout.prompts={prompts}", f"--rollout.group-size={group}"
    flags += "--rollout.max-prompt-tokens=128", f"--rollout.max-new-tokens={length}"
    numbers = compiled(tmp_path, "tpu_rollout.py", "--mesh=2,1,2", *flags)
    rows, width = prompts * group // 2, SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    layer = 2 * rows * length * heads // 2 * width * 2 / 2**20  # keys and values of a device
    assert numbers["token_copies_mib"] < layer * SHAPE["num_hidden_layers"] / 4
    moved = numbers["token_collectives"]
    assert moved["all-to-all"]["mib"] <= rows * SHAPE["vocab_size"] / 2 * 4 / 2**20
    residuals = (2 * SHAPE["num_hidden_layers"] + 1) * rows * SHAPE["hidden_size"] * 4 / 2**20
    assert moved["all-reduce"]["mib"] <= 1.1 * residuals
    assert moved.get("all-gather", {"mib": 0})["mib"] < 0.01
    assert 0 < numbers["hbm_gib"] < numbers["hbm_limit_gib"]
