"""A plain GRPO run imports nothing of the teachers."""

import json
import subprocess
import sys

from tests.tiny import flags, write_sevens, write_student

RUN = """
import json, sys
from cotjax.train import main
status = main(json.loads(sys.argv[1]))
print(json.dumps([status, sorted(name for name in sys.modules if name.startswith("cotjax."))]))
"""


def test_plain_grpo_imports_no_teacher(tmp_path):
    student, data = write_student(tmp_path / "student"), write_sevens(tmp_path / "sevens.jsonl")
    every = flags(student, data, tmp_path / "runs", "plain", "--stage=grpo", "--steps=1")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(every)], capture_output=True, text=True, check=True
    )
    status, modules = json.loads(ran.stdout.splitlines()[-1])
    assert status == 0 and "cotjax.stages.policy" in modules
    assert not [name for name in modules if name.startswith("cotjax.teachers")]
    assert not [name for name in modules if "distill" in name and ".core." not in name]
