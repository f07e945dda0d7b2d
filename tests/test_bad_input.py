"""Every wrong input stops a run before anything is compiled: one message, exit status 2."""

import json
import pathlib
import shutil

import jax
import pytest

import cotjax
from cotjax.evaluate import main as evaluate
from cotjax.export import main as export
from cotjax.train import main as train

TINY = pathlib.Path(cotjax.__file__).parent / "assets" / "tiny"
GOOD = '{"question": "2+2?", "answer": "2+2=<<2+2=4>>4\\n#### 4"}'


@pytest.fixture(autouse=True)
def _nothing_is_compiled(monkeypatch, tmp_path):
    """A run that came as far as its first evaluation would fail here."""
    monkeypatch.chdir(tmp_path)

    def fit(*args, **kwargs):
        raise AssertionError("the run began")

    monkeypatch.setattr("cotjax.training.loop.fit", fit)


def refuse(capsys, flags, *words, command=train):
    """Runs a command that must stop, and checks what it says."""
    before = {path for path in pathlib.Path.cwd().rglob("*") if path.is_file()}
    status = command(flags)
    said = capsys.readouterr()
    text = " ".join((said.err + said.out).split())
    assert status == 2
    assert "Traceback" not in text
    for word in words:
        assert word in text, text
    assert {path for path in pathlib.Path.cwd().rglob("*") if path.is_file()} == before


def jsonl(*lines):
    path = pathlib.Path("train.jsonl")
    path.write_text("\n".join(lines) + "\n")
    return ["--data.source=jsonl", f"--data.path={path}", "--eval.problems=1"]


def copy_of_tiny(**changes):
    """The built-in student's folder with changes to its config.json; None removes the weights."""
    folder = pathlib.Path("model")
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_unknown_flag(capsys):
    refuse(capsys, ["--stage=grpo", "--learning-speed=1"], "--learning-speed")


def test_unknown_key_in_a_file(capsys):
    pathlib.Path("run.toml").write_text("[rollout]\ngroup_sise = 4\n")
    refuse(capsys, ["--config=run.toml"], "rollout.group_sise", "rollout.group_size", "run.toml")


def test_wrong_type_of_a_flag(capsys):
    refuse(capsys, ["--rollout.prompts=many"], "rollout.prompts", "many")


def test_wrong_type_in_a_file(capsys):
    pathlib.Path("run.toml").write_text('steps = "many"\n')
    refuse(capsys, ["--config=run.toml"], 'steps = "many"', "a whole number")


def test_group_of_one(capsys):
    refuse(
        capsys,
        ["--rollout.group-size=1"],
        "rollout.group_size = 1",
        "at least 2 completions",
        "Set rollout.group_size >= 2",
    )


def test_missing_data_file(capsys):
    flags = ["--data.source=jsonl", "--data.path=nowhere.jsonl"]
    refuse(capsys, flags, 'data.path = "nowhere.jsonl"', "no such file")


def test_empty_data_file(capsys):
    refuse(capsys, jsonl(""), 'data.path = "train.jsonl"', "no usable record")


def test_a_line_that_is_not_json(capsys):
    refuse(capsys, jsonl(GOOD, "oops", GOOD), "train.jsonl:2", "not JSON", "Fix the line")


def test_an_answer_without_a_number(capsys):
    bad = '{"question": "2+2?", "answer": "#### four"}'
    refuse(capsys, jsonl(GOOD, bad), "train.jsonl:2", '"answer" has no line "#### <number>"')


def test_fewer_records_than_are_held_out(capsys):
    refuse(capsys, [*jsonl(GOOD), "--eval.problems=5"], "1 records", "eval.problems = 5")


def test_a_prompt_that_does_not_fit(capsys):
    flags = [*jsonl(GOOD, GOOD, GOOD), "--rollout.max-prompt-tokens=3"]
    refuse(capsys, flags, "train.jsonl:1", "the limit is 3", "rollout.max_prompt_tokens >=")


def test_unknown_model(capsys):
    refuse(capsys, ["--model.path=nowhere"], 'model.path = "nowhere"', "Hugging Face folder")


def test_a_model_folder_without_weights(capsys):
    folder = copy_of_tiny()
    (folder / "model.safetensors").unlink()
    refuse(capsys, [f"--model.path={folder}"], "model.safetensors")


def test_a_vocabulary_that_does_not_match(capsys):
    folder = copy_of_tiny(vocab_size=100)
    refuse(capsys, [f"--model.path={folder}"], "100 rows")


def test_an_unknown_architecture(capsys):
    folder = copy_of_tiny(model_type="mamba")
    refuse(capsys, [f"--model.path={folder}"], "mamba", "llama")


def test_a_run_folder_that_cannot_be_written(capsys):
    refuse(
        capsys,
        ["--output=/dev/null/runs", "--name=a"],
        'output = "/dev/null/runs": /dev/null is no folder',
    )


def test_an_existing_run(capsys):
    pathlib.Path("runs/a").mkdir(parents=True)
    pathlib.Path("runs/a/config.toml").write_text('stage = "grpo"\n')
    refuse(capsys, ["--name=a"], "runs/a exists", "--resume", "--name")


def test_resuming_what_was_never_begun(capsys):
    refuse(capsys, ["--name=a", "--resume"], "runs/a is not a run")


def test_more_devices_than_there_are(capsys):
    refuse(capsys, ["--mesh.data=999"], "mesh.data = 999", f"{jax.device_count()} devices")


def test_a_batch_that_devices_cannot_share(capsys):
    flags = ["--rollout.prompts=9", "--policy.micro-batch=0", "--mesh.data=8"]
    refuse(capsys, flags, "rollout.prompts = 9", "8 devices")


def test_evaluating_nothing(capsys):
    refuse(capsys, ["--checkpoint=nowhere"], "nowhere", command=evaluate)


def test_exporting_over_something(capsys):
    pathlib.Path("out").mkdir()
    pathlib.Path("out/mine.txt").write_text("precious")
    flags = ["--checkpoint=tiny", "--out=out"]
    refuse(capsys, flags, "--out out", "not empty", command=export)


# The sampler.


def test_no_new_tokens(capsys):
    for key in ("rollout", "eval"):
        words = f"{key}.max_new_tokens = 0", f"Set {key}.max_new_tokens >= 1"
        refuse(capsys, [f"--{key}.max-new-tokens=0"], *words)


def test_a_prompt_longer_than_the_context(capsys):
    folder = copy_of_tiny(max_position_embeddings=300)
    words = "rollout.max_new_tokens = 256", "context of 300 tokens", "Lower one of them by 36"
    refuse(capsys, [f"--model.path={folder}"], "rollout.max_prompt_tokens = 80", *words)
    own = ["--eval.max-prompt-tokens=64", "--rollout.max-prompt-tokens=40"]
    words = "eval.max_prompt_tokens = 64, eval.max_new_tokens = 256", "Lower one of them by 20"
    for stage in ("grpo", "sft"):
        flags = [f"--stage={stage}", f"--model.path={folder}", "--model.init=pretrained"]
        refuse(capsys, flags + own, *words)
    flags = [f"--checkpoint={folder}", "--rollout.max-prompt-tokens=60"]
    refuse(capsys, flags, "context of 300 tokens", command=evaluate)


def test_a_stop_string_that_no_tokens_spell(capsys):
    folder = copy_of_tiny()
    table = json.loads((folder / "tokenizer.json").read_text())
    vocab = table["model"]["vocab"]
    vocab["\u01ff"] = vocab.pop("~")  # a letter that stands for no byte, in place of one that does
    (folder / "tokenizer.json").write_text(json.dumps(table))
    flags = [f"--model.path={folder}", "--rollout.stop", "~"]
    refuse(capsys, flags, "rollout.stop: '~' can never match", "no tokens of this tokenizer")


def test_a_cache_larger_than_the_memory(capsys):
    words = "rollout.prompts = 8388608", "keys and values take", "on each device, which has"
    flags = ["--rollout.prompts=8388608", "--policy.micro-batch=0", "--mesh.data=1"]
    refuse(capsys, flags, *words, "Lower one of them", 'rollout.cache_dtype = "bfloat16"')
    words = "eval.batch_size = 99999999", "keys and values take"
    flags = ["--stage=sft", "--eval.batch-size=99999999", "--eval.samples=99999"]
    refuse(capsys, flags, *words)
