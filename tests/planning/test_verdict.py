"""The one change that frees most, from what lies in memory."""

import pytest

from cotjax.config import load
from cotjax.planning.memory import Memory
from cotjax.planning.verdict import Change, best_change, changes

ALONE = {"replica": 1, "data": 1, "fsdp": 8, "tensor": 1}
COPIES = {"replica": 1, "data": 8, "fsdp": 1, "tensor": 1}


def best(program, parts, *flags, mesh=ALONE):
    return best_change(load(["--stage=grpo", "--name=plan", *flags]), Memory(program, parts), mesh)


@pytest.mark.parametrize(
    ("program", "parts", "flags", "mesh", "says"),
    [
        ("update", {"activations": 90, "parameters": 10}, [], ALONE, 'model.remat = "full"'),
        (
            *("update", {"activations": 60, "temporaries": 60}, ["--model.remat=full"], ALONE),
            "policy.micro_batch = 1",
        ),
        (
            *("update", {"parameters": 40, "optimizer": 80, "gradients": 40}, [], COPIES),
            "mesh.fsdp = 8, mesh.data = 1",
        ),
        (
            *("update", {"parameters": 40, "optimizer": 80, "gradients": 40}, [], ALONE),
            "lora.rank = 16",
        ),
        ("rollout", {"KV cache": 100}, [], ALONE, 'rollout.cache_dtype = "bfloat16"'),
        (
            *("rollout", {"KV cache": 50, "temporaries": 50}, [], ALONE),
            "rollout.max_concurrent = 64",
        ),
        (
            *("evaluation", {"KV cache": 50, "temporaries": 50}, [], ALONE),
            "eval.batch_size = 160",
        ),
        ("rollout", {"sampling weights": 90}, [], ALONE, 'mesh.rollout = "tensor=2"'),
        (
            *("rollout", {"sampling weights": 90}, ["--mesh.rollout=tensor=2"], ALONE),
            'mesh.rollout = "tensor=4"',
        ),
        (
            *("rollout", {"sampling weights": 90}, ["--mesh.rollout=tensor=8"], ALONE),
            'rollout.cache_dtype = "bfloat16"',
        ),
    ],
)
def test_the_largest_part_decides(program, parts, flags, mesh, says):
    assert str(best(program, parts, *flags, mesh=mesh)) == f"Set {says}"


@pytest.mark.parametrize(("micro", "prompts", "says"), [(0, 32, 2), (0, 16, 1), (8, 32, 2)])
def test_a_micro_batch_is_of_a_device_and_no_more_than_its_prompts(micro, prompts, says):
    flags = "--model.remat=full", f"--policy.micro-batch={micro}", f"--rollout.prompts={prompts}"
    config = load(["--stage=grpo", "--name=plan", *flags])
    (found,) = (
        one
        for one in changes(config, Memory("update", {"temporaries": 90}), ALONE)
        if one.key == "policy.micro_batch"
    )
    assert found.value == str(says) and found.saves == 45


def test_the_next_change_is_named_where_a_run_cannot_have_the_first():
    config = load(["--stage=grpo", "--name=plan"])
    memory = Memory("rollout", {"KV cache": 100, "temporaries": 50})
    asked = []

    def works(change):
        asked.append(change.key)
        return len(asked) == 2

    found = best_change(config, memory, ALONE, works)
    assert asked == ["rollout.max_concurrent", "rollout.cache_dtype"]
    assert found is not None and found.key == asked[1]
    assert best_change(config, memory, ALONE, lambda _: False) is None


def test_a_change_is_what_it_says():
    config = load(["--stage=grpo", "--name=plan"])
    changed = Change("mesh.fsdp", "8, mesh.data = 1", 1).of(config)
    assert (changed.mesh.fsdp, changed.mesh.data) == (8, 1)
    assert Change("model.remat", '"full"', 1).of(config).model.remat == "full"


def test_a_change_frees_no_more_than_there_is():
    parts = {"parameters": 10, "optimizer": 20, "gradients": 10, "activations": 30, "KV cache": 7}
    config = load(["--stage=grpo", "--name=plan"])
    for program in ("update", "rollout", "evaluation"):
        memory = Memory(program, parts)
        for one in changes(config, memory, COPIES):
            assert 0 <= one.saves <= memory.total, one


def test_what_a_stage_does_not_read_is_not_proposed():
    config = load(["--stage=sft", "--name=plan"])
    memory = Memory("update", {"activations": 100})
    found = best_change(config, memory, ALONE)
    assert found is not None and found.key == "model.remat"


def test_where_nothing_helps_nothing_is_said():
    flags = "--model.param-dtype=bfloat16", "--lora.rank=8", "--model.remat=full"
    flags += ("--policy.micro-batch=1",)
    assert best("update", {"parameters": 100}, *flags) is None
