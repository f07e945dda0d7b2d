"""Runs whose answers are no numbers: letters, expressions and texts, from files, end to end."""

import json

import pytest

from cotjax.config import load
from cotjax.run.start import run
from tests.tiny import flags, write_student

MATH = ["--data.layout=math", "--reward.verifier=math"]
STAGES = {
    "grpo": ["--stage=grpo", "--mask.rule=bridge", "--mask.granularity=equation"],
    "curriculum": ["--stage=grpo", "--curriculum.buckets=2", "--curriculum.difficulty=cot_tokens"],
    "rft": ["--stage=rft", "--batch.sequence-length=256"],
    "reconstruct": ["--stage=reconstruct", "--batch.sequence-length=256"],
    "sft": ["--stage=sft", "--model.init=pretrained", "--batch.sequence-length=256"],
    "rewrite": ["--stage=rewrite", "--mining.questions=0", "--batch.sequence-length=256"],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text("utf-8").split("\n")[:-1]]


def train(folder, data, answers, *more, steps=2):
    student = write_student(folder / "student", answers)
    own = flags(student, data, folder / "runs", "run", *more, f"--steps={steps}")
    return run(load([*own, "--rollout.max-prompt-tokens=128"]))


def test_a_multiple_choice_run_of_20_steps_learns(tmp_path):
    rows = [
        {"question": f"Mia has {i} pens. Who has them?", "choices": ["Mia", "Tom"], "answer": "Mia"}
        for i in range(40)
    ]
    data = write(tmp_path / "c.jsonl", rows)
    more = ["--stage=grpo", "--data.layout=choice", "--reward.verifier=choice"]
    folder = train(tmp_path, data, ("A", "B"), *more, steps=20)
    accuracy = [row["accuracy"] for row in lines(folder, "metrics.jsonl") if row["kind"] == "train"]
    assert len(accuracy) == 20
    assert sum(accuracy[:4]) / 4 < 0.7 < 0.85 < sum(accuracy[-4:]) / 4
    shown = lines(folder, "completions.jsonl")[0]
    assert shown["gold"] == "A" and shown["question"].endswith("\nA) Mia\nB) Tom")


@pytest.mark.parametrize("stage", STAGES)
def test_expressions_train_in_every_stage(tmp_path, stage):
    pytest.importorskip("math_verify", reason="the extra [math] names it")
    rows = [
        {
            "problem": f"Mia has {i} pens. What is $x$?",
            "solution": f"We add $1+{i} = {1 + i}$. Tom {'has it. He ' * (i % 3)}has $2={i}$. "
            "It is $\\boxed{x}$.",
        }
        for i in range(24)
    ]
    data = write(tmp_path / "m.jsonl", rows)
    more = [*MATH, *STAGES[stage]]
    folder = train(tmp_path, data, ("x", "y"), *more)
    assert {row["gold"] for row in lines(folder, "completions.jsonl")} == {"x"}
    assert sum(row["kind"] == "train" for row in lines(folder, "metrics.jsonl")) == 2


def test_a_reported_number_may_have_a_verifier_of_its_own(tmp_path):
    rows = [{"question": f"Mia has {i} pens?", "answer": f"so\n#### {7}"} for i in range(24)]
    data = write(tmp_path / "n.jsonl", rows)
    more = ["--stage=grpo", "--eval.verifier=choice"]
    folder = train(tmp_path, data, ("7", "3"), *more)
    shown = lines(folder, "completions.jsonl")
    right = lambda kinds: {row["parts"]["correct"] for row in shown if row["kind"] in kinds}  # noqa: E731
    assert right(("before", "after")) == {0.0} and 1.0 in right(("train",))


def test_every_character_of_a_text_survives_a_run(tmp_path, capsys):
    text = "Mia \u2028has\x00 \x1b[31m{0} \x85pens\ud800\r\n\u202e\ufeff?"
    rows = [{"question": text.format(i), "answer": f"so\u2028\x00\n#### {7}"} for i in range(24)]
    data = write(tmp_path / "n.jsonl", rows)
    folder = train(tmp_path, data, ("7", "3"), "--stage=grpo")
    shown = {row["question"] for row in lines(folder, "completions.jsonl")}
    assert shown <= {text.format(i).replace("\ud800", "\ufffd") for i in range(24)}
    page = (folder / "report.html").read_text("utf-8")
    out = capsys.readouterr().out
    assert r"Mia \u2028has\u0000 \u001b[31m" in page  # as JSON, which its script shows
    assert r"Mia \u2028has\x00 \x1b[31m" in out
    for written in (page, out):
        assert not set(written) & set("\u2028\x00\x85\x1b\u202e\ud800")
