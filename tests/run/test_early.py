"""What is not there is refused before JAX is imported, each with its key and the fix."""

import os
import subprocess
import sys

import pytest

from cotjax.config import load
from cotjax.errors import InputError
from cotjax.run import early
from cotjax.run.early import check_held_out, check_model, check_run
from cotjax.run.folder import write_config


def refused(folder, *flags, **more):
    config = load([*flags, f"--output={folder}", "--name=new"])
    with pytest.raises(InputError) as error:
        check_run(config, folder / "new")
    return str(error.value)


def test_the_defaults_are_ready(tmp_path):
    for stage in ("sft", "grpo", "bridge"):
        check_run(load([f"--stage={stage}", f"--output={tmp_path}", "--name=new"]), tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model.path=nowhere"], 'model.path = "nowhere": not a folder and not a .gguf file'),
        (["--model.path={}"], "a folder without config.json, so it holds no model"),
        (["--data.source=jsonl", "--data.path=no.jsonl"], 'data.path = "no.jsonl": no such file'),
        (["--data.source=parquet", "--data.path=no"], "Set data.path to a .parquet file"),
        (["--data.mixture=problems=1, jsonl:no.jsonl=2"], 'data.mixture = "no.jsonl": no such'),
        (["--data.mixture=problems=1", "--data.eval-path=no"], 'data.eval_path = "no": no such'),
        (["--stage=distill"], "teachers.paths = []: there is no teacher. Set teachers.paths to"),
        (["--distill.coefficient=1"], "teachers.paths = []: there is no teacher. Set teachers.pa"),
        (["--stage=distill", "--teachers.paths", "no"], 'teachers.paths = "no": not a folder'),
        (["--stage=distill", "--teachers.paths", "no.jsonl", "--distill.target=text"],
         'teachers.paths = "no.jsonl": no such file'),
        (["--stage=distill", "--teachers.paths=tiny", "--teachers.cache=no"],
         'teachers.cache = "no": no such folder. Write it with python -m cotjax.cache_logits'),
        (["--distill.coefficient=1", "--teachers.paths", "no"], 'teachers.paths = "no"'),
    ],
)  # fmt: skip
def test_a_path_that_is_not_there(tmp_path, flags, said):
    assert said in refused(tmp_path, *(flag.format(tmp_path) for flag in flags))


def test_a_stage_s_teacher_may_be_made_by_the_stage_before(tmp_path):
    path = tmp_path / "list.toml"
    text = '[[stages]]\nstage = "sft"\n[[stages]]\nstage = "distill"\nteachers.paths = ["{}"]\n'
    for name, fits in ((tmp_path / "new" / "1-sft", True), (tmp_path / "old", False)):
        path.write_text(text.format(name))
        config = load([f"--config={path}", f"--output={tmp_path}", "--name=new"])
        if fits:
            check_run(config, tmp_path / "new")
        else:
            with pytest.raises(InputError, match="old"):
                check_run(config, tmp_path / "new")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").touch()
    monkeypatch.setattr(early.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="a.jsonl.*: you may not read it"):
        check_held_out(load([f"--data.eval-path={tmp_path / 'a.jsonl'}", "--data.source=jsonl",
                             "--data.path=no"]))  # fmt: skip


def test_only_what_is_measured_has_to_be_there(tmp_path):
    (tmp_path / "a.jsonl").touch()
    own = ["--data.source=jsonl", "--data.path=no.jsonl"]
    check_held_out(load([*own, f"--data.eval-path={tmp_path / 'a.jsonl'}"]), alone=True)
    with pytest.raises(InputError, match="no.jsonl"):
        check_held_out(load(own), alone=True)


# The place to write to.


def test_a_file_in_the_place_of_the_output(tmp_path):
    (tmp_path / "file").touch()
    said = refused(tmp_path / "file" / "runs")
    assert f"{tmp_path / 'file'} is no folder. Set --output" in said


def test_an_output_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(early.os, "access", lambda path, mode: mode == os.R_OK)
    assert f"you may not write into {tmp_path}" in refused(tmp_path / "runs")


def test_a_full_disk(tmp_path, monkeypatch):
    full = early.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(early.shutil, "disk_usage", lambda path: full)
    monkeypatch.setattr(early, "weight_bytes", lambda path: 2**30)
    said = refused(tmp_path / "runs")
    assert "has 1 MiB left, and one checkpoint takes at least 1.5 GiB" in said
    config = load(["--lora.rank=8", f"--output={tmp_path}", "--name=new"])
    check_run(config, tmp_path / "new")  # an adapter is small


def test_a_run_s_folder_stands_for_its_model(tmp_path):
    (tmp_path / "run" / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").touch()
    check_model(str(tmp_path / "run"))
    with pytest.raises(InputError, match="5: not there"):
        check_model(str(tmp_path / "run" / "checkpoints" / "5"))


# Without JAX.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train --model.path=nowhere", 'model.path = "nowhere"'),
        ("train --output=/dev/null/runs", "/dev/null is no folder"),
        ("evaluate --checkpoint nowhere", "--checkpoint nowhere: there is no such run or model"),
        ("evaluate --checkpoint tiny --files nowhere.jsonl", '--files = "nowhere.jsonl"'),
        ("generate Q --checkpoint nowhere", "--checkpoint nowhere: there is no such run or model"),
        ("cache_logits --out x --teachers.paths nowhere", 'teachers.paths = "nowhere"'),
        ("rationales --out x --model.path nowhere", 'model.path = "nowhere"'),
    ],
)
def test_a_command_says_so_before_it_imports_jax(tmp_path, words, said):
    command, *flags = words.split()
    code = (
        f"import sys; from cotjax.{command} import main; status = main({flags!r}); "
        "heavy = {'jax', 'transformers', 'orbax', 'flax'} & {*sys.modules}; "
        "print(status, sorted(heavy))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.stdout == "2 []\n" and said in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_an_accelerator_that_is_asked_for_and_not_there_is_one_sentence(tmp_path):
    for asked, said in (("cuda", "no CUDA plugin of JAX"), ("nowhere,cpu", "finds no such device")):
        ran = subprocess.run(
            [sys.executable, "-m", "cotjax.train"],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            env=os.environ | {"JAX_PLATFORMS": asked},
        )
        said_all = ran.stderr.strip().splitlines()
        assert ran.returncode == 2 and len(said_all) == 1, ran.stderr
        assert said_all[0].startswith(f"error: JAX_PLATFORMS={asked}: ") and said in said_all[0]


def test_a_typo_costs_no_more_than_a_second_of_the_processor(tmp_path):
    command = [sys.executable, "-m", "cotjax.train", "--model.path=nowhere"]
    before = os.times()
    subprocess.run(command, capture_output=True, cwd=tmp_path)
    after = os.times()
    used = after.children_user + after.children_system
    assert used - before.children_user - before.children_system < 1.0


def test_a_name_of_the_hub_that_is_nowhere_is_refused_without_jax(tmp_path):
    flags = ("--data.source=hub", "--data.path=owner/rows"), ("--model.path=owner/model",)
    for more in flags:
        ran = subprocess.run([sys.executable, "-m", "cotjax.train", *more], cwd=tmp_path, text=True,
                             env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
                             capture_output=True)  # fmt: skip
        assert ran.returncode == 2 and "not in the cache" in ran.stderr
        assert len(ran.stderr.splitlines()) == 1


def test_a_run_that_goes_on_has_the_names_of_the_hub_pinned(tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(early.hub, "pin", lambda run, *kinds: pinned.append((run, *kinds)))
    config = load([f"--output={tmp_path}", "--name=new"])
    check_run(config, tmp_path / "new")
    assert pinned == []
    write_config(tmp_path / "new", config)
    check_run(load([f"--output={tmp_path}", "--name=new", "--resume"]), tmp_path / "new")
    assert pinned == [(tmp_path / "new", "model", "dataset")]
