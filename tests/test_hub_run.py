"""A run of a model and a data set by their names, from a command to its report."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, serving
from tests.tiny import write_sevens, write_student

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parents[1]


def test_train_and_doctor_take_names_of_the_hub_and_offline_goes_on(tmp_path):
    hub = FakeHub()
    hub.add_folder("owner/student", Path(write_student(tmp_path / "student")))
    write_sevens(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    for split, part in (("train", rows[:16]), ("test", rows[16:])):
        file = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(part), file)
        name = f"main/{split}-00000-of-00001.parquet"
        files = hub.repositories.get(("datasets", "owner/sevens"), {}).get("main", {})
        hub.add("owner/sevens", files | {name: file.getvalue()}, kind="datasets")
    words = [
        *("--stage=grpo", "--model.path=owner/student@main", "--data.source=hub", "--steps=1"),
        *("--data.path=owner/sevens", "--data.config=main", "--data.eval-split=test"),
        *("--eval.problems=4", "--eval.samples=1", "--eval.max-new-tokens=8", "--mesh.data=1"),
        *("--rollout.prompts=2", "--rollout.group-size=2", "--rollout.max-new-tokens=8"),
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    env |= {"HF_HUB_OFFLINE": "0"}
    env.pop("HF_TOKEN", None)

    def run(command, *more, **variables):
        argv = [sys.executable, "-m", f"cotjax.{command}", *words, *more]
        return subprocess.run(
            argv, env=env | variables, cwd=tmp_path, capture_output=True, text=True
        )

    with serving(hub) as address:
        done = run("train", "--name=a", HF_ENDPOINT=address)
        assert done.returncode == 0, done.stderr
        healthy = run("doctor", HF_ENDPOINT=address)
        assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    assert "OK   data: 16 records to train on, 4 held out" in healthy.stdout
    result = json.loads((tmp_path / "runs" / "a" / "result.json").read_text())
    assert result["steps"] == 1 and result["after"]["problems"] == 4
    assert result["parts"][0]["hub"] == {
        "model owner/student@main": hub.sha("models", "owner/student", "main"),
        "dataset owner/sevens": hub.sha("datasets", "owner/sevens", "main"),
    }
    offline = run("train", "--name=b", "--model.path=owner/other", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    (said,) = offline.stderr.strip().splitlines()
    assert "it is not in the cache" in said and "HF_HUB_OFFLINE" in said
