"""A tiny stage, planned once for all tests of this folder that look at a plan."""

import json

import pytest

from cotjax.config import load
from cotjax.planning.chips import Chip
from cotjax.planning.opening import stages_of
from cotjax.planning.run_plan import plan_run
from cotjax.planning.topologies import parse_topology

SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 500,
}
SIZES = {"prompts": 8, "group": 4, "new_tokens": 16, "prompt_tokens": 96, "steps": 5}
# 1 GiB, and rates at which the numbers of a plan are easy to follow.
CHIP = Chip("cpu", "a test's chip", "cpu", 1e9, 2**30, 1e9, 1e8, 1e7)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A model's folder with only a config.json."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return folder


@pytest.fixture(scope="session")
def grpo(bare):
    """The config of a tiny GRPO run of that model on 8 devices that split it."""
    return load(
        [
            *("--stage=grpo", "--name=plan", f"--model.path={bare}", f"--steps={SIZES['steps']}"),
            *(f"--rollout.prompts={SIZES['prompts']}", f"--rollout.group-size={SIZES['group']}"),
            f"--rollout.max-new-tokens={SIZES['new_tokens']}",
            f"--rollout.max-prompt-tokens={SIZES['prompt_tokens']}",
            *("--eval.max-new-tokens=16", "--eval.problems=8", "--eval.samples=0"),
            *("--mesh.data=2", "--mesh.fsdp=4", "--policy.micro-batch=1"),
        ]
    )


@pytest.fixture(scope="session")
def plan(grpo):
    """The plan of that run."""
    return plan_run(stages_of(grpo), parse_topology("cpu:8"), chip=CHIP, price=2.0)
