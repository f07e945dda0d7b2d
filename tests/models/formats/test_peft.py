"""Adapter folders: what PEFT writes is computed as PEFT computes it, and the same bits come back.

The golden folder was written by PEFT; the live comparison runs where torch and peft are installed.
"""

import functools
import importlib.util
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cotjax.errors import InputError
from cotjax.interfaces import TokenBatch
from cotjax.models.formats import huggingface
from cotjax.models.formats.peft import load_peft, save_peft
from cotjax.models.lora import Lora, attach, join_adapter
from cotjax.models.policy import Policy
from tests.models.make_golden import GOLDEN, inputs, random_model
from tests.models.make_golden_peft import BASE, FOLDER, logits_and_gradients, peft_model, torch_base
from tests.tiny import SHAPE, make_policy

TOLERANCE = 1e-5  # of the largest logit, float32
GRADIENT_TOLERANCE = 2e-5  # of each tensor's largest gradient, float32
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None,
    reason="compares with PEFT live: pip install 'cotjax[parity]'",
)


@functools.cache
def golden_shape():
    return huggingface.read_architecture(GOLDEN / BASE)


def logits_and_gradient(base_folder, adapter_folder, batch):
    """Logits, and the gradient of the adapter as tensors under PEFT's names."""
    policy, base = Policy.split(huggingface.load(base_folder))
    shape = huggingface.read_architecture(base_folder)
    lora, adapter = load_peft(adapter_folder, shape)
    policy, _ = attach(policy, base, lora, jax.random.key(0))
    ids = batch["tokens"]
    rows = TokenBatch(ids, ids, batch["counts"], batch["segment"], batch["positions"])

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(adapter, base):
        params = join_adapter(adapter, base)
        logits = policy.head(params)(policy.rows(params, rows))
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["targets"][..., None], -1)
        return -(logp[..., 0] * batch["counts"]).sum() / batch["counts"].sum(), logits

    by_name, logits = gradient(adapter, base)
    save_peft(by_name, lora, adapter_folder / "gradient", shape, "")
    return np.asarray(logits), load_file(adapter_folder / "gradient" / WEIGHTS)


def difference(ours, theirs):
    """The largest, relative to the largest of theirs."""
    assert np.isfinite(ours).all()
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_same(ours, theirs, segment, record):
    """Equal logits and gradients; both differences go into the report of `--junit-xml`."""
    real = segment > 0
    logits = difference(ours[0][real], theirs[0][real])
    assert ours[1].keys() == theirs[1].keys()
    gradients = max(difference(ours[1][name], theirs[1][name]) for name in theirs[1])
    record("logits", float(logits))
    record("gradients", float(gradients))
    assert logits < TOLERANCE
    assert gradients < GRADIENT_TOLERANCE


def test_logits_and_gradients_equal_those_of_peft(tmp_path, record_property):
    golden = np.load(FOLDER / "golden.npz")
    gradients = {name[9:]: golden[name] for name in golden if name.startswith("gradient/")}
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    ours = logits_and_gradient(GOLDEN / BASE, tmp_path, golden)
    assert_same(ours, (golden["logits"], gradients), golden["segment"], record_property)


def test_the_folder_of_peft_comes_back_bit_for_bit(tmp_path):
    lora, adapter = load_peft(FOLDER, golden_shape())
    save_peft(adapter, lora, tmp_path, golden_shape(), BASE)
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(FOLDER / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor)
    ours, theirs = (json.loads((one / CONFIG).read_text()) for one in (tmp_path, FOLDER))
    theirs["target_modules"] = sorted({name.split(".")[-1] for name in theirs["target_modules"]})
    assert {**ours, "target_modules": sorted(ours["target_modules"])}.items() <= theirs.items()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_survives_its_folder_bit_for_bit(dtype, tmp_path):
    policy, params = make_policy()
    lora = Lora(3, 4.5, 0.25, ("k_proj", "o_proj", "up_proj"))
    _, adapter = attach(policy, params, lora, jax.random.key(1), param_dtype=dtype)
    adapter = jax.tree.map(lambda x: x + jnp.asarray(0.1, x.dtype), adapter)
    save_peft(adapter, lora, tmp_path / "new", SHAPE, "base")
    again, same = load_peft(tmp_path / "new", SHAPE, param_dtype=dtype)
    assert again == lora
    assert jax.tree.map(lambda x: x.dtype, same) == jax.tree.map(lambda x: x.dtype, adapter)
    jax.tree.map(np.testing.assert_array_equal, same, adapter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, 'peft_type = "LOHA".*"LORA"'),
        ({"use_rslora": True}, "use_rslora = true.*only false.*Merge"),
        ({"bias": "all"}, 'bias = "all".*"none"'),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"r": "many"}, "r = 'many'; a positive integer is needed"),
        ({"r": 10**9}, "r = 1000000000; 1,048,576 at most is read"),
        ({"lora_alpha": None}, "lora_alpha = None; a positive number is needed"),
        ({"r": 4}, r"lora_A.weight has shape \(3, 24\).*need \(4, 24\)"),
        ({"r": 25}, "lora.rank = 25.*24 to 24.*lora.rank <= 24"),
    ],
)
def test_a_config_that_is_not_this_lora_is_refused(changes, message, tmp_path):
    config = json.loads((FOLDER / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | changes))
    shutil.copyfile(FOLDER / WEIGHTS, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=message):
        load_peft(tmp_path, golden_shape())


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all_: all_.pop(FIRST), f"{re.escape(FIRST)} .3, 24. is missing.*every layer"),
        (lambda all_: all_.update(more=all_[FIRST]), "tensor more .3, 24. has no place"),
        (lambda all_: all_.clear(), "no LoRA on any of q_proj"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, message, tmp_path):
    tensors = load_file(FOLDER / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    shutil.copyfile(FOLDER / CONFIG, tmp_path / CONFIG)
    with pytest.raises(InputError, match=message):
        load_peft(tmp_path, golden_shape())


def test_a_folder_without_whole_files_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read this JSON file"):
        load_peft(tmp_path, golden_shape())
    shutil.copyfile(FOLDER / CONFIG, tmp_path / CONFIG)
    with pytest.raises(InputError, match=f"{WEIGHTS} is not among {CONFIG}"):
        load_peft(tmp_path, golden_shape())
    (tmp_path / WEIGHTS).write_bytes((FOLDER / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_peft(tmp_path, golden_shape())
    (tmp_path / "file").write_text("")
    lora, adapter = load_peft(FOLDER, golden_shape())
    with pytest.raises(InputError, match="cannot write here"):
        save_peft(adapter, lora, tmp_path / "file", golden_shape(), BASE)


@pytest.mark.parity
@needs_peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT reads it
@pytest.mark.parametrize("case", ["qwen2", "gemma3"])
def test_what_peft_reads_from_our_folder_computes_the_same(case, tmp_path, record_property):
    peft = importlib.import_module("peft")
    theirs = random_model(case, seed=1)
    theirs.save_pretrained(tmp_path / "base")
    # Their settings and numbers, our folder.
    peft_model(torch_base(tmp_path / "base"), seed=1).save_pretrained(tmp_path / "theirs")
    shape = huggingface.read_architecture(tmp_path / "base")
    lora, adapter = load_peft(tmp_path / "theirs", shape)
    save_peft(adapter, lora, tmp_path / "ours", shape, str(tmp_path / "base"))
    batch = inputs(shape.vocab_size)
    reader = functools.partial(peft.PeftModel.from_pretrained, is_trainable=True)
    loaded = reader(torch_base(tmp_path / "base"), tmp_path / "ours").eval()
    ours = logits_and_gradient(tmp_path / "base", tmp_path / "ours", batch)
    assert_same(ours, logits_and_gradients(loaded, batch), batch["segment"], record_property)
