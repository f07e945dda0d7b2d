"""The page of plans: what its script makes of results, and the models it plans for."""

import importlib.util
from pathlib import Path

import pytest

from cotjax.models.formats.huggingface import read_architecture

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("plans", ROOT / "docs" / "plans.py")
assert SPEC and SPEC.loader
plans = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plans)
ROW = {
    "student": "qwen2.5-3b",
    "method": "BRIDGE",
    "slice": "v5e-16",
    "seconds": 9,
    "estimated": True,
}


def test_a_page_holds_what_fits_what_does_not_what_cannot_be_split_and_what_is_missing():
    stages = [{"stage": "grpo", "step_seconds": 12.3456, "steps": 9}]
    says = "fits: at most 9.50 of 16.00 GiB (grpo, update) on each device"
    fits = {"fits": True, "says": says, "chip_hours": 1234.5, "stages": stages, "tensor": 2}
    text = plans.page(
        [
            ROW | {"slice": "v6e-64", "fits": None, "says": "rollout.prompts = 16: 64 devices"},
            ROW | fits | {"estimated": False},
            ROW | fits | {"chip_hours": 9.0},  # an estimate, made after what was compiled
            ROW | {"slice": "v5e-8", "fits": False, "says": "does not fit: 20 of 16 GiB. Set x",
                   "chip_hours": 9.0, "stages": stages, "tensor": 1},
        ]
    )  # fmt: skip
    bridge = text.partition("## BRIDGE")[2].partition("## CLPD")[0]
    lines = [line for line in bridge.splitlines() if line.startswith("| qwen2.5-3b")]
    assert lines == [
        "| qwen2.5-3b | v5e-8 | no: 20 of 16 GiB. Set x | 12.3 |  | estimate |",
        "| qwen2.5-3b | v5e-16 | yes, 9.50 of 16.00 GiB (tensor 2) | 12.3 | 1,234.5 | compiled |",
        "| qwen2.5-3b | v5p-8 | not planned yet |  |  |  |",
        "| qwen2.5-3b | v6e-8 | not planned yet |  |  |  |",
        "| qwen2.5-3b | v6e-64 | cannot be split: rollout.prompts = 16: 64 devices |  |  |  |",
    ]
    assert text.count("not planned yet") == 2 * 25 - 3


def test_a_plan_of_larger_batches_says_so():
    own = {
        "fits": True,
        "says": "fits: at most 3.0 of 31.2 GiB (grpo)",
        "chip_hours": 3,
        "tensor": 2,
    }
    own |= {"stages": [{"stage": "grpo", "step_seconds": 1.0, "steps": 9}], "batch": "32 for 16"}
    text = plans.page([ROW | own])
    assert "| yes, 3.0 of 31.2 GiB (tensor 2; 32 for 16) | 1 | 3.0 | estimate |" in text
    text = plans.page([ROW | own | {"fits": False, "says": "does not fit: 20 of 16 GiB. Set x"}])
    assert "| no: 20 of 16 GiB. Set x (32 for 16) |" in text


def test_batches_grow_to_what_devices_can_share_and_steps_shrink_as_much():
    config = {
        "rollout": {"prompts": 16, "top_p": 0.9},
        "stages": [
            {"stage": "sft", "steps": 312, "batch": {"size": 8, "sequence_length": 64},
             "optimizer": {"warmup_steps": 80, "learning_rate": 1.0}},
            {"stage": "grpo", "steps": 375, "rollout": {"max_new_tokens": 9}},
        ],
    }  # fmt: skip
    grown, said = plans.grown(config, 32)
    assert said == "32 for 8, 32 for 16" and grown["rollout"] == config["rollout"]
    assert grown["stages"] == [
        {"stage": "sft", "steps": 78, "batch": {"size": 32, "sequence_length": 64},
         "optimizer": {"warmup_steps": 20, "learning_rate": 1.0}},
        {"stage": "grpo", "steps": 188, "rollout": {"max_new_tokens": 9, "prompts": 32}},
    ]  # fmt: skip


def test_what_is_there_is_not_planned_again_and_an_estimate_is_compiled():
    key = ROW["student"], ROW["method"], ROW["slice"]
    for there, compiles, estimates in (
        ([], True, True),
        ([ROW | {"fits": True}], True, False),
        ([ROW | {"fits": True, "estimated": False}], False, False),
        ([ROW | {"fits": None}], False, False),
    ):
        assert plans._better(there, key, estimate=False) == compiles
        assert plans._better(there, key, estimate=True) == estimates


@pytest.mark.skipif(not plans.RESULTS.exists(), reason="nothing was planned yet")
def test_the_page_is_that_of_the_results():
    assert plans.PAGE.read_text("utf-8") == plans.page(plans.read())


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        *(("qwen2.5-0.5b", 0.494), ("qwen2.5-1.5b", 1.544), ("qwen2.5-3b", 3.086)),
        *(("qwen2.5-7b", 7.616), ("qwen2.5-14b", 14.770), ("llama-3.1-8b", 8.030)),
    ],
)
def test_a_shape_has_the_parameters_of_the_model_of_its_name(name, billions):
    shape = read_architecture(plans.SHAPES / name)
    heads, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.hidden_size * (2 * heads + 2 * keys + 3 * shape.mlp_size + 2)
    layer += (heads + 2 * keys) * shape.qkv_bias
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    total = shape.num_layers * layer + embeddings + shape.hidden_size
    assert round(total / 1e9, 3) == billions


def test_every_result_is_of_a_known_plan():
    for row in plans.read():
        assert row["student"] in plans.STUDENTS and row["slice"] in plans.SLICES
