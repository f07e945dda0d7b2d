"""An adapter and its base: named when exported, merged by `model.adapter`, refused on others."""

import importlib
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.export import export
from cotjax.interfaces import TokenBatch
from cotjax.models.fingerprint import fingerprint
from cotjax.models.formats import huggingface
from cotjax.models.formats.peft import base_of
from cotjax.models.policy import Policy
from cotjax.parallel.mesh import make_mesh
from cotjax.run.opened import open_model
from cotjax.student.base_model import FILE, check_base, note_base
from cotjax.student.load import load_from_path
from cotjax.teachers.teacher_plan import plan_teacher
from cotjax.train import main as train
from tests.models.formats.test_peft import TOLERANCE, needs_peft
from tests.tiny import flags, make_config, make_model

LORA = "--lora.rank=2", "--lora.alpha=4", "--stage=sft", "--optimizer.warmup-steps=0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a base, a LoRA run on it of two steps, and its adapter as a PEFT folder."""
    folder = tmp_path_factory.mktemp("base")
    make_config(folder)
    argv = flags(folder / "student", folder / "sevens.jsonl", folder / "runs", "lora", *LORA)
    assert train([*argv, "--steps=2", "--optimizer.learning-rate=0.1"]) == 0
    export(str(folder / "runs" / "lora"), str(folder / "adapter"), adapter=True)
    huggingface.save(make_model(seed=5), folder / "other", tokenizer=None)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(folder / "student" / file, folder / "other" / file)
    return folder


def logits(loaded):
    policy, params = Policy.split(loaded.model)
    ids: Any = np.arange(5, 13, dtype=np.int32)[None]
    ones: Any = np.ones_like(ids)
    rows = TokenBatch(ids, ids, ones.astype(np.float32), ones, np.cumsum(ones, 1) - 1)
    return np.asarray(policy.head(params)(policy.rows(params, rows)))


def opened(path, adapter="", **more):
    argv = [f"--model.path={path}", f"--model.adapter={adapter}"]
    return load_from_path(load(argv).model, seed=0, place=None, **more)


def test_the_exported_adapter_names_its_base_and_its_weights(world):
    name, noted = base_of(world / "adapter")
    assert name == str((world / "student").resolve())
    base = Policy.split(huggingface.load(name))[1]
    assert noted == fingerprint(base)
    assert json.loads((world / "runs" / "lora" / FILE).read_text())["fingerprint"] == noted


def test_base_and_adapter_have_the_logits_of_the_run(world):
    name, _ = base_of(world / "adapter")
    together = opened(name, world / "adapter")
    expected = logits(opened(world / "runs" / "lora"))
    np.testing.assert_array_equal(logits(together), expected)
    assert np.abs(expected - logits(opened(name))).max() > 1e-3  # it has learned something
    assert any("rank 2" in note for note in together.notes)


@pytest.mark.parity
@needs_peft
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT reads it
def test_peft_finds_the_base_and_computes_the_same(world, record_property):
    peft, torch = (importlib.import_module(name) for name in ("peft", "torch"))
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(world / "adapter").eval()
    with torch.no_grad():
        expected = theirs(input_ids=torch.arange(5, 13)[None]).logits.numpy()
    gap = np.abs(logits(opened(world / "runs" / "lora")) - expected).max() / np.abs(expected).max()
    record_property("logits", float(gap))
    assert gap < TOLERANCE


def test_another_base_is_refused(world):
    with pytest.raises(InputError) as error:
        _ = opened(world / "other", world / "adapter").model
    for word in ("model.adapter", "trained on the weights", "student", "other"):
        assert word in str(error.value)


def test_an_adapter_of_another_shape_or_of_no_folder_is_refused(world, tmp_path):
    with pytest.raises(InputError, match="the adapter is of another base"):
        opened("tiny", world / "adapter")
    with pytest.raises(InputError, match='model.adapter = ".*nowhere": not a folder'):
        opened("tiny", tmp_path / "nowhere")
    with pytest.raises(InputError, match='does nothing while model.init = "random"'):
        load([f"--model.adapter={world / 'adapter'}", "--model.init=random"])


def test_an_adapter_in_place_of_a_model_says_where_its_base_is(world):
    with pytest.raises(InputError, match='holds an adapter and no model.*student"'):
        opened(world / "adapter")


def test_an_adapter_of_another_tool_is_merged_and_its_base_only_told(world, tmp_path):
    shutil.copytree(world / "adapter", tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    loaded = opened(world / "student", tmp_path / "theirs")
    assert any("not which weights" in note for note in loaded.notes)
    np.testing.assert_array_equal(logits(loaded), logits(opened(world / "runs" / "lora")))


def test_a_run_begins_from_base_and_adapter_and_is_opened_again(world):
    argv = flags(world / "student", world / "sevens.jsonl", world / "runs", "more", "--stage=sft")
    assert train([*argv, f"--model.adapter={world / 'adapter'}", "--steps=1", *LORA[:2]]) == 0
    again = open_model(str(world / "runs" / "more"), load(["--config",
                       str(world / "runs" / "more" / "config.toml")]))  # fmt: skip
    whole = Policy.split(opened(world / "runs" / "lora").model)[1]
    jax.tree.map(np.testing.assert_array_equal, again.student.base, whole)
    with pytest.raises(InputError, match="--adapter: its base .* is merged with the adapter"):
        export(str(world / "runs" / "more"), str(world / "none"), adapter=True)


def test_a_base_that_has_changed_since_is_refused_everywhere(world, tmp_path):
    shutil.copytree(world, tmp_path / "w")
    here = tmp_path / "w" / "runs" / "lora"
    text = (here / "config.toml").read_text()
    (here / "config.toml").write_text(text.replace(f"{world}/student", f"{world}/other"))
    config = load(["--config", str(here / "config.toml")])
    for use in (
        lambda: opened(here).model,
        lambda: open_model(str(here), config).params,
        lambda: plan_teacher(str(here), config, make_mesh(1)).student.params,
        lambda: export(str(here), str(tmp_path / "out")),
        lambda: note_base(here, "other", base("other", world)),
    ):
        with pytest.raises(InputError, match="its adapter was trained on the weights"):
            use()


def base(name, world):
    return Policy.split(huggingface.load(world / name))[1]


def test_a_base_without_a_folder_is_named_by_its_copy(world, tmp_path):
    first = world / "runs" / "lora"
    argv = flags(first, world / "sevens.jsonl", world / "runs", "second", *LORA, "--steps=1")
    assert train(argv) == 0
    run, out = str(world / "runs" / "second"), str(tmp_path / "adapter")
    with pytest.raises(InputError, match="is a run folder, which PEFT cannot load.*--base"):
        export(run, out, adapter=True)
    export(str(first), str(tmp_path / "merged"))
    with pytest.raises(InputError, match="--base .*other: has other weights"):
        export(run, out, adapter=True, base=str(world / "other"))
    export(run, out, adapter=True, base=str(tmp_path / "merged"))
    assert base_of(out)[0] == str((tmp_path / "merged").resolve())
    np.testing.assert_array_equal(logits(opened(tmp_path / "merged", out)), logits(opened(run)))
    with pytest.raises(InputError, match="only an adapter has a base"):
        export(run, str(tmp_path / "x"), base="tiny")


def test_a_run_without_the_file_has_no_base_to_compare(world, tmp_path):
    assert not check_base(tmp_path, base("student", world))
    note_base(tmp_path, "student", base("student", world))
    assert check_base(tmp_path, base("student", world))


@pytest.mark.parametrize("text", ["", "[]", '{"path": "student"}'])
def test_a_damaged_note_is_no_note_of_another_base(world, tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=f"{FILE}: is damaged.*Bring it back from a copy"):
        check_base(tmp_path, base("student", world))
