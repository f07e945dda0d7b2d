"""Every metric that a run writes has its row in the table, and every row is of a metric."""

import json
import pathlib

import pytest

from cotjax.config.ranges import STAGES
from cotjax.train import main
from cotjax.training.metric_names import GROUPS, METRICS, described
from tests.tiny import flags, write_sevens, write_student, write_teachers

PACKAGE = pathlib.Path(__file__).parents[2] / "cotjax"
TABLE = PACKAGE / "training" / "metric_names.py"
CODE = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if path != TABLE)
UNITS = {"nats", "nats/token", "tokens", "tokens/s", "s", "0–1", "1", "count", "number", "reward"}
ROWS = [row for rows in METRICS.values() for row in rows]

TEACHERS = ["--teachers.paths", "weak", "strong"]
MONITORED = ["--curriculum.num-monitor=2", "--curriculum.ranking-problems=0"]
# A run for each kind of step, each with settings that add metrics.
RUNS = {
    "grpo": ["--policy.inner-updates=2", "--policy.refill=1", "--policy.sampler-correction=2"],
    "distill": ["--distill.alpha=0.5", "--distill.on-policy=0.5", *MONITORED, *TEACHERS],
    "sft": ["--supervised.kl-coefficient=0.1", "--eval.every=1"],
}
SLOW = {
    "budget": [
        "--reward.length=budget",
        "--reward.limit-end=4",
        "--mask.rule=share",
        "--rollout.max-prompt-tokens=64",
    ],  # fmt: skip
    "target": ["--reward.length=target", "--reward.target-max=6", "--reward.target-min=2"],
    "texts": ["--distill.target=text", "--curriculum.num-monitor=2", *TEACHERS],
    "reconstruct": ["--batch.sequence-length=96"],
    "rft": [],
}
STAGE_OF = {"budget": "grpo", "target": "grpo", "texts": "distill"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics")
    write_student(folder / "student")
    write_sevens(folder / "sevens.jsonl")
    write_teachers(folder)
    return folder


@pytest.mark.parametrize(
    "name", [*RUNS, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)]
)
def test_every_metric_of_a_run_is_in_the_table(name, world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    stage, own = STAGE_OF.get(name, name), (RUNS | SLOW)[name]
    every = flags("student", "sevens.jsonl", "runs", name, f"--stage={stage}", *own, "--steps=2")
    given = {flag.partition("=")[0] for flag in own}
    usual = [flag for flag in every[: -len(own) - 2] if flag.partition("=")[0] not in given]
    assert main([*usual, f"--stage={stage}", *own, "--steps=2"]) == 0, capsys.readouterr().err
    text = pathlib.Path("runs", name, "metrics.jsonl").read_text("utf-8")
    for line in map(json.loads, text.splitlines()):
        for metric in line.keys() - {"step", "kind"}:
            row = described(metric, line["kind"])
            assert row, f"{metric} ({line['kind']}) has no row in {TABLE.name}"
            assert not row.stages or stage in row.stages, (metric, stage)


def test_every_row_is_of_a_metric_that_the_code_writes():
    for row in ROWS:
        literal = row.name.removesuffix("*")
        assert f'"{literal}' in CODE, row.name
        assert row.what and not row.what.endswith("."), row.name
        assert set(row.stages) <= set(STAGES)
        assert row.unit in UNITS or row.name == "replay_*", row.name


def test_the_groups_of_the_table_have_titles_and_no_name_twice():
    assert list(METRICS) == list(GROUPS)
    for kind in ("train", "eval"):
        names = [
            r.name for g in GROUPS if (g == "evaluation") == (kind == "eval") for r in METRICS[g]
        ]
        assert len(names) == len(set(names))


def test_a_name_that_nobody_writes_has_no_row():
    assert described("acuracy", "train") is None
    assert described("pass_at_k", "train") is None
    assert described("reward_short", "train").unit == "reward"
