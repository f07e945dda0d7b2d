"""The update programs that an NVIDIA GPU would be given, lowered without one."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from cotjax.config.plugins import open_stage
from cotjax.interfaces import Placement
from cotjax.models import cudnn
from cotjax.parallel.mesh import run_mesh
from cotjax.student import load
from tests.tiny import make_config

FORWARD, BACKWARD = "__cudnn$fmha{}Softmax(", "__cudnn$fmha{}SoftmaxBackward("
# Lengths that no other axis of the student has: prompt, completion, both, and a group's row.
PROMPT, OWN, GROUP, PACKED = 28, 12, 4, 44
LENGTHS = {PROMPT, OWN, PROMPT + OWN, PROMPT + GROUP * OWN, PACKED}
SIZES = (
    *(f"--rollout.max-prompt-tokens={PROMPT}", f"--rollout.max-new-tokens={OWN}"),
    f"--rollout.group-size={GROUP}",
)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """cuDNN is asked whether it is there, and the mesh for its platform; the rest is lowered."""
    monkeypatch.setattr(Placement, "platform", "gpu")
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def update_program(folder, monkeypatch, kind, *more):
    """The text of a stage's update, lowered for CUDA."""
    monkeypatch.setattr(load, "attention_of", lambda *_, **__: kind)
    config = make_config(folder, "--model.compute-dtype=bfloat16", *more)
    stage = open_stage(config, run_mesh(config.mesh))
    program = next(one for one in stage.programs() if one.name == "update")
    traced = program.function.trace(*program.args, **program.kwargs)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def scores(text, batch):
    """Shapes of arrays over pairs of tokens, of more than a mask for each row of a batch."""
    found = set()
    for shape in set(re.findall(r"tensor<((?:\d+x){3,})\w+>", text)):
        *first, query, key = (int(size) for size in shape.split("x")[:-1])
        if query in LENGTHS and key in LENGTHS and math.prod(first) > batch:
            found.add((*first, query, key))
    return found


def test_the_dense_update_stores_scores(tmp_path, monkeypatch, as_on_a_gpu):
    text = update_program(tmp_path, monkeypatch, "dense", "--stage=grpo", *SIZES)
    assert scores(text, 4) and "__cudnn" not in text


@pytest.mark.parametrize("repeats", [True, False], ids=["rows", "mask"])
def test_an_update_with_shared_prompts_is_cudnns(tmp_path, monkeypatch, as_on_a_gpu, repeats):
    monkeypatch.setattr(cudnn, "repeats_prompt", lambda *_: repeats)
    text = update_program(tmp_path, monkeypatch, "cudnn", "--stage=grpo", *SIZES)
    bias = "" if repeats else "ScaleBias"
    assert FORWARD.format(bias) in text and BACKWARD.format(bias) in text
    assert not scores(text, 4)


def test_a_supervised_update_is_cudnns(tmp_path, monkeypatch, as_on_a_gpu):
    more = "--stage=sft", f"--batch.sequence-length={PACKED}"
    text = update_program(tmp_path, monkeypatch, "cudnn", *more)
    assert FORWARD.format("ScaleBias") in text and BACKWARD.format("ScaleBias") in text
    assert not scores(text, 2)


def test_jax_rounds_and_cuts_off_the_logarithm_that_would_join_two_calls():
    """Once it does not, a prompt and a completion can be attended to in two calls."""
    x = jax.random.normal(jax.random.key(0), (1, 8, 1, 8), jnp.bfloat16)

    def logarithm(x):
        out = jax.nn.dot_product_attention(x, x, x, return_residual=True)
        return out[1].astype(jnp.float32).sum(), out[1]

    slope, residual = jax.grad(logarithm, has_aux=True)(x)
    assert residual.dtype == jnp.bfloat16 and not slope.any()
