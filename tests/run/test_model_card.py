"""The card of an export says what the run's files say, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cotjax import hub
from cotjax.config import load, to_toml
from cotjax.run.model_card import Exported, model_card

BEFORE = {"accuracy": 0.5, "accuracy_low": 0.42, "accuracy_high": 0.58, "tokens": 138.25,
          "truncated": 0.0, "problems": 128}  # fmt: skip
AFTER = BEFORE | {"accuracy": 0.75, "accuracy_low": 0.67, "accuracy_high": 0.82, "tokens": 57.0}


def write_run(folder, *flags, evals=((0, BEFORE), (8, AFTER)), alarms=(), steps=8):
    """A run's folder as far as a card reads it."""
    (folder / "checkpoints" / str(steps)).mkdir(parents=True)
    config = load([f"--name={folder.name}", "--steps=8", "--seed=5", *flags])
    (folder / "config.toml").write_text(to_toml(config))
    rows = [{"step": step, "kind": "eval", **numbers} for step, numbers in evals]
    rows += [{"step": step, "kind": "train", "loss": 1.0} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = {"version": "0.2.0", "commit": "abc123def", "jax": "0.10.2", "machine": "a machine"}
    part |= {"data": {"far/away/train.jsonl": "0123456789ab"}}
    (folder / "parts.json").write_text(json.dumps([part]))
    facts = [["Objective", "{policy[objective]} at {optimizer[learning_rate]:g}"]]
    (folder / "facts.json").write_text(json.dumps(facts))
    lines = [{"step": 3, "kind": "alarm", "name": name, "says": "…"} for name in alarms]
    (folder / "alarms.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def card(run, step=8, **more):
    """(text, front matter) of an export of a run."""
    made = Exported(str(run), run, step, 491_520, **({"adapter": False, "prompt": "Q\n"} | more))
    text = model_card(made, Path("exports/brief"))
    return text, ModelCard(text).data.to_dict()


def test_a_card_has_what_the_run_measured(tmp_path):
    text, data = card(write_run(tmp_path / "run", "--stage=grpo"))
    assert "0.49 million parameters, trained with cotjax (`grpo`) from `tiny`" in text
    assert "answers 75.0% right in 57 tokens; the start, 50.0% in 138." in text
    assert "| before | 50.0% (42.0% to 58.0%) | 138.2 | 0.0% | 128 |" in text
    assert "| after `grpo` | 75.0% (67.0% to 82.0%) | 57.0 | 0.0% | 128 |" in text
    assert "| cotjax | 0.2.0, commit abc123def |" in text and "| seed | 5 |" in text
    assert "   - Objective: auto at 0.0001" in text
    assert "   - File: `train.jsonl`, digest 0123456789ab" in text and "far/away" not in text
    assert 'stage = "grpo"' in text and "```text\nQ\n```" in text
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "text-generation"
    assert data["tags"] == ["cotjax", "chain-of-thought", "grpo"]
    assert "base_model" not in data and "datasets" not in data  # the Hub has neither
    (result,) = data["model-index"][0]["results"]
    assert data["model-index"][0]["name"] == "brief"
    assert [(one["type"], one["value"]) for one in result["metrics"]] == [
        ("accuracy", 0.75),
        ("tokens", 57.0),
    ]


def test_a_checkpoint_that_was_not_evaluated_says_so(tmp_path):
    run = write_run(tmp_path / "run", "--stage=grpo")
    text, data = card(run, step=4)
    assert "The run has no evaluation of these weights." in text
    assert "75.0%" not in text and "model-index" not in data
    assert "| before | 50.0%" in text  # which was measured
    shutil.rmtree(run)
    text, _ = card(write_run(run, "--stage=grpo", evals=()))
    assert "no evaluation" in text and "%" not in text.partition("## Before")[2].partition("##")[0]


def test_a_run_after_another_tells_both(tmp_path):
    first = write_run(tmp_path / "list" / "1-sft", "--stage=sft", "--model.init=pretrained")
    second = write_run(
        *(tmp_path / "list" / "2-grpo", "--stage=grpo", f"--model.path={first}"),
        evals=((0, BEFORE | {"accuracy": 0.6}), (8, AFTER)),
    )
    text, data = card(second)
    assert "(`sft`, `grpo`) from `tiny`" in text and "the start, 50.0% in 138" in text
    assert text.index("1. `sft`, 8 steps") < text.index("2. `grpo`, 8 steps")
    assert data["tags"][-2:] == ["sft", "grpo"]
    shutil.move(tmp_path / "list", tmp_path / "moved")  # its stages still lie side by side
    assert "(`sft`, `grpo`) from `tiny`" in card(tmp_path / "moved" / "2-grpo")[0]
    shutil.rmtree(tmp_path / "moved" / "1-sft")
    assert "(`grpo`) from `1-sft`" in card(tmp_path / "moved" / "2-grpo")[0]


def test_runs_that_name_each_other_end(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    write_run(one, "--stage=grpo", f"--model.path={other}")
    write_run(other, "--stage=grpo", f"--model.path={one}")
    assert "(`other`" not in card(one)[0] and card(one)[0].count("`grpo`, 8 steps") == 2


def test_names_of_the_hub_are_in_the_front_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "is_cached", lambda name: name == "owner/base@v1")
    run = write_run(
        *(tmp_path / "run", "--stage=grpo", "--model.path=owner/base@v1"),
        *("--data.source=hub", "--data.path=openai/gsm8k@main", "--data.config=main"),
    )
    data = card(run)[1]
    assert (data["base_model"], data["datasets"]) == ("owner/base", ["openai/gsm8k"])
    monkeypatch.setattr(hub, "is_cached", lambda name: False)  # a folder that was moved away
    text, data = card(run)
    assert "base_model" not in data and "| began with | `base@v1` |" in text


def test_a_name_is_the_hubs_only_if_its_files_are_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert not hub.is_cached("owner/base") and not hub.is_cached("a--b/../c")
    there = tmp_path / "models--owner--base"
    (there / "refs").mkdir(parents=True)
    (there / "refs" / "main").write_text("f00")
    (there / "snapshots" / "f00").mkdir(parents=True)
    (there / "snapshots" / "f00" / "config.json").write_text("{}")
    assert hub.is_cached("owner/base") and not hub.is_cached("owner/base@v2")


def test_a_home_folder_and_alarms(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    run = write_run(
        *(tmp_path / "run", "--stage=grpo", f"--output={tmp_path}/runs", "--model.init=random"),
        evals=((0, BEFORE), (8, AFTER | {"truncated": 0.125})),
        alarms=("kl", "truncation", "kl"),
    )
    text, _ = card(run)
    assert str(tmp_path) not in text and 'output = "~/runs"' in text
    assert "- In training there were alarms: kl, truncation." in text
    assert "12.5% of those answers were cut off" in text and "from random weights" in text


def test_a_damaged_run_has_a_card(tmp_path):
    run = write_run(tmp_path / "run", "--stage=grpo")
    (run / "metrics.jsonl").write_text("{")
    (run / "parts.json").write_text("[")
    text, _ = card(run)
    assert "| cotjax | not written down |" in text and "no evaluation" in text


@pytest.mark.parametrize("adapter", [False, True])
def test_how_to_load(tmp_path, adapter):
    text, data = card(write_run(tmp_path / "run", "--stage=grpo"), adapter=adapter, prompt="A'\n")
    shown = text.partition("## How to load it")[2]
    assert data["library_name"] == ("peft" if adapter else "transformers")
    code = shown.partition("```python\n")[2].partition("```")[0]
    compile(code, "card", "exec")
    assert ("AutoPeftModelForCausalLM" in code) == adapter and ("A'" in code) != adapter
    assert ("--model.adapter=FOLDER" in shown) == adapter


def test_a_model_that_no_run_trained():
    text = model_card(Exported("tiny", None, None, 10, False, "QUESTION"), Path("out"))
    assert "No run of cotjax trained it." in text and "Before and after" not in text
    assert "No run" in text and "## Limits" in text and ModelCard(text).data.tags
