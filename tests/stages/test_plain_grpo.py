"""A plain GRPO run imports nothing of the teachers, and nothing heavy before it is needed."""

import json
import subprocess
import sys

from tests.tiny import flags, write_sevens, write_student

RUN = """
import json, sys
from cotjax.train import main
status = main(json.loads(sys.argv[1]))
print(json.dumps([status, sorted(sys.modules)]))
"""

# A run until its loop would begin: imports, tokenizer, records, weights.
START = """
import contextlib, json, sys
from cotjax.run import one_stage
from cotjax.train import main
from cotjax.training import loop

def fit(stage, *_, **__):
    print(json.dumps([stage.state is not None, sorted(sys.modules)]))
    raise SystemExit(0)

one_stage.compiling_side_by_side = lambda programs: contextlib.nullcontext()
loop.fit = fit
main(json.loads(sys.argv[1]))
"""

# What takes a tenth of a second to import, or more, and who needs it.
HEAVY = {
    "scipy": "intervals in a report of several runs",
    "jax.experimental.pallas": "attention of a TPU",
    "matplotlib": "pictures",
    "pandas": "a run's metrics as a table",
    "pyarrow": "Parquet",
    "tensorflow_datasets": "data of TFDS",
    "sympy": "answers of mathematics",
}


def test_plain_grpo_imports_no_teacher(tmp_path):
    student, data = write_student(tmp_path / "student"), write_sevens(tmp_path / "sevens.jsonl")
    every = flags(student, data, tmp_path / "runs", "plain", "--stage=grpo", "--steps=1")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(every)], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(ran.stdout.splitlines()[-1])
    assert status == 0 and "cotjax.stages.policy" in modules
    modules = [name for name in modules if name.startswith("cotjax.")]
    assert not [name for name in modules if name.startswith("cotjax.teachers")]
    assert not [name for name in modules if "distill" in name and ".core." not in name]


def test_the_start_of_the_built_in_student_imports_nothing_heavy(tmp_path):
    every = ["--stage=grpo", f"--output={tmp_path}", "--name=start", "--quiet"]
    ran = subprocess.run(
        [sys.executable, "-c", START, json.dumps(every)], capture_output=True, text=True, check=True
    )
    has_weights, modules = json.loads(ran.stdout.splitlines()[-1])
    assert has_weights and "cotjax.stages.policy" in modules
    assert not {*HEAVY, "transformers", "cotjax.teachers"} & {*modules}
