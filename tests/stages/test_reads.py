"""What a stage says it reads is what it reads: every setting that a run looks at, and no other."""

import dataclasses
import pathlib
import sys

import pytest

from cotjax.config import Config, load, stage_class
from cotjax.config.stages import EVERYWHERE
from cotjax.parallel.mesh import make_mesh
from tests.tiny import flags, write_sevens, write_student

SECTIONS = {
    field.name: type(getattr(Config(), field.name))
    for field in dataclasses.fields(Config)
    if dataclasses.is_dataclass(getattr(Config(), field.name))
}
# Asked for in one run each: together they look at everything that the stage declares.
RUNS = {
    "sft": [[]],
    "reconstruct": [["--reconstruct.masked-weight=2.0", "--batch.sequence-length=128"]],
    "grpo": [
        ["--mask.rule=share", "--curriculum.buckets=2", "--policy.overlong-buffer=2",
         "--rollout.max-prompt-tokens=96"],
        ["--curriculum.buckets=2", "--curriculum.difficulty=rank_fusion",
         "--curriculum.signals", "cot_steps", "pass_rate"],
        *([f"--reward.length={length}", *more] for length, more in (
            ("target", ["--reward.target-max=8", "--reward.target-min=4",
                        "--rollout.max-prompt-tokens=96"]),
            ("group_relative", []), ("budget", ["--reward.limit-end=4"]))),
        ["--distill.coefficient=0.1", "--teachers.paths", "STUDENT", "STUDENT"],
        ["--distill.coefficient=0.1", "--teachers.paths", "STUDENT", "--distill.on-policy-loss",
         "divergence", "--curriculum.schedule=fixed", "--curriculum.teacher-weights", "1.0"],
    ],
    "rft": [["--curriculum.buckets=2", "--curriculum.difficulty=rank_fusion",
             "--curriculum.signals", "cot_steps", "pass_rate"]],
    "rewrite": [["--mining.questions=16", "--mining.attempts=1", "--rollout.max-prompt-tokens=96"],
                ["--mining.questions=0", "--rollout.max-prompt-tokens=96",
                 "--curriculum.buckets=2", "--curriculum.difficulty=rank_fusion",
                 "--curriculum.signals", "cot_steps", "pass_rate"]],
    "distill": [
        ["--teachers.paths", "STUDENT", "STUDENT", "--distill.on-policy=0.5",
         "--curriculum.schedule=adaptive", "--curriculum.check-every=1",
         "--curriculum.pass-rate=0.5", "--curriculum.difficulty=rank_fusion",
         "--curriculum.signals", "cot_steps", "pass_rate"],
        ["--teachers.paths", "STUDENT", "--distill.target=text", "--distill.no-filter-texts",
         "--curriculum.schedule=fixed", "--curriculum.teacher-weights", "1.0"],
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reads")
    write_student(folder / "student")
    data = pathlib.Path(write_sevens(folder / "sevens.jsonl"))
    two_steps = data.read_text("utf-8").replace("7*1=7", "7*1=7\\n7+0=7")  # one can be masked
    data.write_text(two_steps, encoding="utf-8")
    return folder


@pytest.fixture
def seen(monkeypatch):
    """The keys that code outside of the config package looks at."""
    keys = set()
    for name, section in SECTIONS.items():
        fields = {field.name for field in dataclasses.fields(section)}

        def look(self, attribute, name=name, fields=fields):
            caller = sys._getframe(1).f_globals.get("__name__", "")
            ours = caller.startswith("cotjax.") and not caller.startswith("cotjax.config")
            ours |= caller == "cotjax.config.plugins"  # it looks for the stage that asks it
            if ours and attribute in fields:
                keys.add(f"{name}.{attribute}")
            return object.__getattribute__(self, attribute)

        monkeypatch.setattr(section, "__getattribute__", look)
    return keys


def declared(stage):
    """The keys that a stage reads, in itself or as every stage."""
    own = stage_class(stage)
    keys = (f"{s}.{f.name}" for s, section in SECTIONS.items() for f in dataclasses.fields(section))
    return {key for key in keys if own.reads_key(key)}


def run(folder, stage, more):
    student = str(folder / "student")
    argv = [student if flag == "STUDENT" else flag for flag in more]
    data = folder / "sevens.jsonl"
    argv = [*flags(student, data, folder / "runs", stage, f"--stage={stage}"), *argv]
    if stage in ("sft", "distill"):
        argv.append("--batch.sequence-length=64")
    if stage == "distill":
        argv += ["--curriculum.buckets=2", "--curriculum.num-monitor=4"]
        argv += [] if "--distill.target=text" in more else ["--curriculum.ranking-problems=2"]
    opened = stage_class(stage).from_config(load([*argv, "--steps=2"]), make_mesh(1))
    (folder / stage).mkdir(exist_ok=True)
    opened.prepare(folder / stage)
    opened.evaluate(opened.state.params)
    state = opened.state
    for step in range(2):
        work = opened.next_step(state.params, step)
        state, _ = opened.update(state, work.batch)


# Read by the run and not by the stage, or only on other devices, data or kinds of student.
BY_THE_RUN = {"budget.tokens", "supervised.patience", "training.max_bad_steps",
              "eval.at", "checkpoint.every", "checkpoint.keep", "checkpoint.grace", "eval.every",
              "mesh.replica", "mesh.data", "mesh.fsdp", "mesh.tensor",
              "track", "track_project"}  # fmt: skip
ELSEWHERE = {
    *("data.split", "data.size", "data.min_steps", "data.max_steps", "data.concise_share"),
    *("data.style", "data.new_share", "deliberate.wrong_try", "deliberate.what_if"),
    *("deliberate.check", "deliberate.recap", "deliberate.restate", "deliberate.final"),
    *("lora.alpha", "lora.dropout", "lora.targets", "data.columns", "data.start", "data.stop"),
    "policy.term_settings",  # of a user's own term
    # Of a user's own reward.
    *("reward.workers", "reward.timeout", "reward.memory", "reward.max_failed"),
    # No store is written here, and these belong to one.
    *("teachers.top_k", "teachers.cache_dtype"),
    # This student writes no steps, so nothing is accepted for a replay.
    *("rewrite/batch.sequence_length", "rewrite/rewrite.equations", "rewrite/rewrite.updates"),
    "rft/rewrite.equations",
}


# Code that GRPO shares with distillation looks at them; the first is empty, the other is for it.
WITHOUT_EFFECT = {"grpo/teachers.cache", "grpo/teachers.tail"}


@pytest.mark.parametrize("stage", RUNS)
def test_a_stage_reads_what_it_declares(folder, seen, stage):
    for more in RUNS[stage]:
        run(folder, stage, more)
    said = declared(stage)
    said |= {key.partition("/")[2] for key in WITHOUT_EFFECT if key.startswith(f"{stage}/")}
    assert not seen - said, f"read and not declared: {sorted(seen - said)}"
    unread = said - seen - BY_THE_RUN - ELSEWHERE
    unread = {key for key in unread if not {f"{stage}/{key}"} & (ELSEWHERE | WITHOUT_EFFECT)}
    assert not unread, f"declared and not read: {sorted(unread)}"


def test_every_stage_reads_the_common_sections():
    assert all(stage_class(stage).reads_key(key) for stage in RUNS for key in EVERYWHERE)
