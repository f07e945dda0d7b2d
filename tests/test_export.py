"""Export: what a run has learned, as a folder that transformers generates from."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cotjax import config as configs
from cotjax.export import export, main
from cotjax.models.formats import huggingface
from cotjax.models.formats.load import load_tokenizer, resolve
from cotjax.models.policy import Policy
from cotjax.training.checkpoint import Checkpoints
from cotjax.training.update import init_state
from tests.models.formats.test_huggingface import assert_same_model, make_model
from tests.models.test_parity import needs_torch


def scaled(factor: float) -> Any:
    """A model that a run could have reached: the base times a factor."""
    policy, params = Policy.split(make_model("qwen2"))
    return policy.bind(jax.tree.map(lambda x: x * factor, params))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the checkpoints of steps 3 and 5, and the base model beside it."""
    folder = tmp_path_factory.mktemp("runs")
    base = folder / "base"
    huggingface.save(make_model("qwen2"), base, tokenizer=load_tokenizer(resolve("tiny")))
    settings = ["--stage=grpo", "--name=run", f"--output={folder}", f"--model.path={base}"]
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text(configs.to_toml(configs.load(settings)))
    checkpoints = Checkpoints(folder / "run", keep=2)
    for step in (3, 5):
        params = Policy.split(scaled(step))[1]
        checkpoints.save(step, init_state(params, optax.adamw(1e-3)), {})
    checkpoints.close()
    (base / "model.safetensors").unlink()  # an export needs the base's shape and tokenizer alone
    return folder / "run"


def test_newest_checkpoint_of_a_run(run: Path, tmp_path: Path) -> None:
    step, size = export(str(run), str(tmp_path / "out"))
    assert step == 5
    assert size == sum(leaf.size for leaf in jax.tree.leaves(Policy.split(scaled(5))[1]))
    assert_same_model(huggingface.load(tmp_path / "out"), scaled(5))


def test_a_card_says_what_was_exported(run: Path, tmp_path: Path) -> None:
    export(str(run / "checkpoints" / "3"), str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "# out\n" in card and "step 3 of the run `run`" in card
    assert "```text\nQuestion: QUESTION\n```" in card  # the layout of the built-in tokenizer
    export(str(tmp_path / "out"), str(tmp_path / "again"))
    assert "No run of cotjax trained it." in (tmp_path / "again" / "README.md").read_text("utf-8")


def test_checkpoint_of_a_step(run: Path, tmp_path: Path) -> None:
    assert export(str(run / "checkpoints" / "3"), str(tmp_path / "out"))[0] == 3
    assert_same_model(huggingface.load(tmp_path / "out"), scaled(3))


def test_format_on_disk(run: Path, tmp_path: Path) -> None:
    export(str(run), str(tmp_path / "out"), dtype="bfloat16")
    loaded = huggingface.load(tmp_path / "out", param_dtype=jnp.bfloat16)
    rounded = scaled(5).unembed.astype(jnp.bfloat16)
    np.testing.assert_array_equal(loaded.unembed, rounded.astype(jnp.float32))


def test_exported_folder_can_be_exported_again(run: Path, tmp_path: Path) -> None:
    export(str(run), str(tmp_path / "once"))
    assert export(str(tmp_path / "once"), str(tmp_path / "twice"))[0] is None
    assert_same_model(huggingface.load(tmp_path / "twice"), scaled(5))


def test_command_says_what_it_wrote(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(run), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {tmp_path / 'out'}" in printed
    assert "step 5" in printed
    assert " transformers.AutoModelForCausalLM.from_pretrained(" in printed


def test_bad_input_is_one_message_and_status_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    out = str(tmp_path / "out")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.toml").write_text((run / "config.toml").read_text())
    for checkpoint, where, message in (
        (str(begun), out, f"--checkpoint {begun}: this run has saved no checkpoint. Name"),
        (str(run), str(tmp_path / "used"), "not empty"),
        (str(run / "checkpoints" / "7"), out, f"{run} has 3, 5"),
        (str(tmp_path / "nowhere"), out, "nowhere"),
        (str(run), str(tmp_path / "used" / "file" / "out"), "cannot write here"),
    ):
        assert main(["--checkpoint", checkpoint, "--out", where]) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert shown.startswith("error: ")
        assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_checkpoint_of_another_model_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "checkpoints").symlink_to(run / "checkpoints")
    huggingface.save(
        make_model("llama"), tmp_path / "base", tokenizer=load_tokenizer(resolve("tiny"))
    )
    settings = ["--stage=grpo", "--name=run", f"--model.path={tmp_path / 'base'}"]
    (other / "config.toml").write_text(configs.to_toml(configs.load(settings)))
    assert main(["--checkpoint", str(other), "--out", str(tmp_path / "out")]) == 2
    assert "not a checkpoint of this model" in capsys.readouterr().err


@pytest.mark.parity
@needs_torch
def test_transformers_generates_from_the_export(run: Path, tmp_path: Path) -> None:
    import transformers

    export(str(run), str(tmp_path / "out"))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("Ann has 12 apples.", return_tensors="pt")
    row: Any = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert row.shape[1] > prompt["input_ids"].shape[1]
