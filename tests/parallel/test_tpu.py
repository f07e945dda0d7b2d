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


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--lora.rank=8"]], ids=["full", "lora"])
def test_a_shared_prompt_compiles_to_the_flash_kernel_without_scores(tmp_path, flags):
    pytest.importorskip("libtpu", reason="compiles for TPUs: pip install 'cotjax[aot]'")
    (tmp_path / "shape.json").write_text(json.dumps(SHAPE))
    command = [sys.executable, str(ROOT / "benchmarks" / "tpu_update.py"), "--json"]
    command += ["--topology=v5e:2x2", "--shape", str(tmp_path / "shape.json")]
    command += ["--rollout.max-prompt-tokens=192", "--rollout.max-new-tokens=128", *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert numbers["flash_kernels"] >= 2 and numbers["score_arrays"] == 0
    assert 0 < numbers["hbm_gib"] < numbers["hbm_limit_gib"]
