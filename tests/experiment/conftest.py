"""An experiment's file as a test writes it, and rows of its results."""

import pytest

from cotjax.experiment.results import ArmResult

TEXT = """
seeds = [0, 1]
validation_seeds = [100]
against = "sft"
budget = { tokens = 1000 }
questions = { test = 8, validation = 4 }
chosen = "nothing"
[settings]
rollout = { prompts = 4 }
batch = { size = 4 }
[arms.base]
[arms.sft]
stage = "sft"
optimizer = { schedule = "constant" }
[[arms.list.stages]]
stage = "reconstruct"
budget = { tokens = 400 }
optimizer = { schedule = "constant" }
[[arms.list.stages]]
stage = "grpo"
"""


@pytest.fixture
def write(tmp_path):
    def write(text=TEXT, **changes):
        for old, new in changes.values():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "compare.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def row():
    def row(arm, seed=0, right="10101010", length=10.0, *, curve=(0.25, 0.5), **changes):
        accuracy = right.count("1") / len(right)
        numbers = {"accuracy": accuracy, "sampled_accuracy": accuracy / 2, "tokens": length}
        points = [(share, numbers | {"accuracy": one}) for share, one in zip((0, 1), curve)]  # noqa: B905
        common = {"numbers": numbers, "curve": points, "right": right, "questions": "q"}
        common |= {"lengths": [int(length)] * len(right), "used_tokens": {"trained": 1000}}
        common |= {"fingerprint": "f", "status": "done", "commit": "c", "steps": 5, "seconds": 1.0}
        return ArmResult(arm, seed, **common | changes)

    return row
