"""The model `cotjax` of EleutherAI's harness, beside its own `hf` on the exported folder."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cotjax.lm_eval import main
from tests.tiny import write_student

ROOT = Path(__file__).parents[1]
THERE = importlib.util.find_spec("lm_eval") is not None
HF = all(importlib.util.find_spec(name) for name in ("torch", "accelerate"))
needs_harness = pytest.mark.skipif(not THERE, reason="needs the [lm-eval] extra")

TASKS = {
    "choose": """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}]
""",
    "write": """
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: [LINE, " the"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
SCRIPT = """
import json, sys
import cotjax.lm_eval, lm_eval
from lm_eval.tasks import TaskManager
cotjax.lm_eval.register()
model, args, tasks, out = sys.argv[1:]
found = lm_eval.simple_evaluate(
    model=model, model_args=args, tasks=["choose", "write"], bootstrap_iters=0, log_samples=True,
    task_manager=TaskManager(include_path=tasks, include_defaults=False), batch_size=2,
    device="cpu",
)
answers = {name: [one["filtered_resps"] for one in rows] for name, rows in found["samples"].items()}
json.dump({"answers": answers, "results": found["results"]}, open(out, "w"), default=str)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm_eval")
    write_student(folder / "student")
    rows = [
        {"question": f"Mia has {count} pens. How many?", "choices": ["Answer: 7", " 3", "zebra"],
         "label": 0, "answer": "Answer:7"}
        for count in range(5)
    ]  # fmt: skip
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    for name, text in TASKS.items():
        text = text.replace("DATA", str(data)).replace("LINE", r'"\n"')
        (folder / "tasks" / f"{name}.yaml").write_text(text)
    return folder


def harness(folder, model, args):
    out = folder / f"{model}.json"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model, args, str(folder / "tasks"), str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu",
                          "HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parity
@needs_harness
@pytest.mark.skipif(not HF, reason="needs torch and accelerate, as the harness's hf does")
def test_it_agrees_with_hf_on_the_exported_folder(folder):
    from cotjax.export import export

    export(str(folder / "student"), str(folder / "exported"))
    own = harness(folder, "cotjax", f"path={folder / 'student'}")
    hf = harness(folder, "hf", f"pretrained={folder / 'exported'},dtype=float32")
    assert own["answers"]["write"] == hf["answers"]["write"]
    assert any("Answer" in text for (text,) in own["answers"]["write"])
    for one, other in zip(own["answers"]["choose"], hf["answers"]["choose"], strict=True):
        for (logp, likeliest), (expected, same) in zip(one, other, strict=True):
            assert float(logp) == pytest.approx(float(expected), rel=1e-4)
            assert str(likeliest) == str(same)
    for task in ("choose", "write"):
        for metric in ("acc,none", "exact_match,none"):
            assert own["results"][task].get(metric) == hf["results"][task].get(metric)


@pytest.mark.slow
@needs_harness
def test_a_task_whose_data_are_away_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks = folder / "away"
    tasks.mkdir()
    text = TASKS["write"].replace("dataset_path: json", "dataset_path: someone/nothing")
    kept = [line for line in text.splitlines() if "dataset_kwargs" not in line]
    (tasks / "write.yaml").write_text("\n".join(kept).replace("LINE", r'"\n"'))
    argv = ["--model_args", f"path={folder / 'student'}", "--tasks", "write"]
    assert main([*argv, "--include_path", str(tasks)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: the harness could not load a task's data (")
    assert "--include_path FOLDER" in said


@pytest.mark.slow
@needs_harness
@pytest.mark.parametrize(
    ("args", "said"),
    [("pretrained=x", "no argument pretrained"), ("allow_nonfinite=true", "no path"),
     ("path=nowhere", "there is no such run or model")],
)  # fmt: skip
def test_wrong_arguments_are_one_line(folder, capsys, args, said):
    argv = ["--model_args", args, "--tasks", "write", "--include_path", str(folder / "tasks")]
    assert main(argv) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_help_needs_no_harness(capsys):
    assert main(["--help"]) == main([]) == 0
    assert "cotjax lm-eval --model_args path=RUN --tasks TASK" in capsys.readouterr().out


def test_without_the_harness_the_error_says_how_to_get_it(capsys, monkeypatch):
    for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    from cotjax.lm_eval import register

    register.cache_clear()
    assert main(["--tasks", "gsm8k"]) == 2
    assert 'Run pip install "cotjax[lm-eval]"' in capsys.readouterr().err
