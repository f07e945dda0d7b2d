"""A list of stages: each from the one before, by any names, stopped anywhere and resumed."""

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import cotjax
from cotjax.config import load
from cotjax.errors import InputError, NothingToDo
from cotjax.run import check_lengths, plan, run
from cotjax.run import stage_list as lists
from cotjax.train import main
from tests.tiny import write_teachers

NAMES = ["1-reconstruct", "2-half", "3-alone"]


def result(folder):
    return json.loads((folder / "result.json").read_text())


def same(folder):
    """What a result says beside how long it took."""
    return {key: result(folder)[key] for key in ("before", "after", "stages", "steps", "seed")}


def test_every_stage_is_a_run_and_the_result_has_a_row_each(listed):
    assert [path.name for path in sorted(listed.folder.glob("*-*"))] == NAMES
    rows = listed.result["stages"]
    assert [row["name"] for row in rows] == ["base", *NAMES]
    assert listed.result["steps"] == 6
    assert [part["stage"] for part in listed.result["parts"]] == NAMES
    own = [run.result["seconds"] for run in listed.stages]
    assert listed.result["seconds"] == pytest.approx(sum(own), abs=0.11)


def test_a_stage_begins_with_the_weights_of_the_one_before(listed):
    for before, run_ in zip(listed.result["stages"], listed.stages, strict=False):
        for key, value in run_.result["before"].items():
            assert before[key] == value, (run_.folder.name, key)


def test_the_page_leads_to_each_stage(listed):
    page = (listed.folder / "report.html").read_text("utf-8")
    assert all(f'href="{name}/report.html"' in page for name in NAMES)


def test_it_says_which_stage_of_how_many_from_where(world, listed):
    """A run that has ended says so of every stage, and runs none."""
    config = dataclasses.replace(listed.config, resume=True)
    with redirect_stdout(io.StringIO()) as out:
        run(config, began=time.monotonic())
    shown = out.getvalue()
    assert f"stage 2 of 3: half, has ended: {listed.folder / '2-half'}" in shown
    assert "Held-out problems" in shown and "3-alone" in shown


PLACES = {"in the first": (0, 1), "between two": (1, 0), "in the last": (2, 1)}
KILLED = """
import os, signal, sys
from cotjax.stages.policy import PolicyStage
from cotjax.stages.supervised import SupervisedStage
from cotjax.run import one_stage, stage_list
from cotjax.train import main
stage, step = map(int, sys.argv[1:3])
begun = []
original = stage_list.run_stage
def run_stage(config, folder, **more):
    begun.append(config.name)
    return original(config, folder, **more)
stage_list.run_stage = run_stage
for owner in (PolicyStage, SupervisedStage):
    def next_step(self, params, number, original=owner.next_step):
        if len(begun) - 1 == stage and number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, params, number)
    owner.next_step = next_step
main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    "place", [p if "two" in p else pytest.param(p, marks=pytest.mark.slow) for p in PLACES]
)
def test_killed_anywhere_its_name_alone_resumes_it(world, listed, place):
    name = f"killed-{place.replace(' ', '-')}"
    folder = world.folder / "runs" / name
    path = world.folder / f"{name}.toml"
    path.write_text((listed.folder / "config.toml").read_text())
    argv = [f"--config={path}", f"--name={name}"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, PLACES[place]), *argv],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    number = PLACES[place][0] + 1
    assert f"stage {number} of 3: " in done.stdout
    assert main(["--resume", f"--name={name}", f"--output={folder.parent}"]) == 0
    assert same(folder) == same(listed.folder)
    assert len(result(folder)["parts"]) == 4


def test_a_stage_without_work_is_left_out_and_the_next_begins_before_it(world, monkeypatch):
    config, original = world.list_config("left-out"), lists.run_stage

    def run_stage(config, folder, **more):
        if config.name == "2-half":
            raise NothingToDo("nothing to do")
        return original(config, folder, **more)

    monkeypatch.setattr(lists, "run_stage", run_stage)
    with redirect_stdout(io.StringIO()) as out:
        run(config, began=time.monotonic())
    folder = world.folder / "runs" / "left-out"
    assert [row["name"] for row in result(folder)["stages"]] == ["base", NAMES[0], NAMES[2]]
    shown = out.getvalue()
    assert "2-half is left out: nothing to do" in shown
    assert f"stage 3 of 3: alone, from {folder / NAMES[0]}" in shown


def test_a_list_without_any_work_says_so(world, monkeypatch):
    def run_stage(config, folder, **more):
        raise NothingToDo("nothing to do")

    monkeypatch.setattr(lists, "run_stage", run_stage)
    with pytest.raises(NothingToDo, match="nothing to do"):
        run(world.list_config("no-work"), began=time.monotonic())


def test_a_plan_chains_the_folders(world):
    runs = plan(world.list_config("planned"), Path("runs/planned"))
    assert [own.name for own in runs] == NAMES
    assert [own.model.path for own in runs] == [
        *(world.student, "runs/planned/1-reconstruct", "runs/planned/2-half"),
    ]
    assert {own.model.init for own in runs[1:]} == {"pretrained"}
    assert not any(own.resume for own in runs)


def test_texts_beyond_the_context_are_refused_before_the_first_stage(world):
    runs = plan(world.list_config("long"), Path("runs/long"))
    longer = dataclasses.replace(runs[2].rollout, max_new_tokens=4000)
    runs[2] = dataclasses.replace(runs[2], rollout=longer)
    with pytest.raises(InputError, match=r"\[\[stages\]\] 3-alone: rollout.max_prompt_tokens = 64"):
        check_lengths(runs)


def test_bridge_and_clpd_in_one_list(world):
    """configs/tiny_bridge_clpd.toml, two steps a stage, with small teachers."""
    path = Path(__file__).parents[2] / "configs" / "tiny_bridge_clpd.toml"
    assert len(path.read_text().splitlines()) <= 40
    teachers = world.folder / "teachers"
    write_teachers(teachers)
    small = [
        *("--steps=2", "--eval.problems=4", "--eval.samples=1", "--eval.max-new-tokens=8"),
        *("--rollout.prompts=2", "--rollout.group-size=2", "--rollout.max-new-tokens=8"),
        *("--batch.size=2", "--mining.questions=8", "--mining.attempts=2"),
        *("--mining.max-new-tokens=8", "--mining.batch-size=8", "--curriculum.examples=8"),
        *("--mesh.data=1", "--checkpoint.every=0", "--curriculum.ranking-problems=0"),
        *(f"--model.path={world.student}", f"--output={world.folder / 'runs'}"),
        *("--teachers.paths", str(teachers / "weak"), str(teachers / "strong")),
    ]
    config = load([f"--config={path}", "--name=bridge-clpd", *small])
    run_ = cotjax.train(config)
    assert [own.folder.name for own in run_.stages] == ["1-reconstruct", "2-grpo", "3-rewrite"]
    grpo = run_.stages[1]
    assert grpo.config.distill.coefficient > 0 and grpo.config.curriculum.buckets > 1
    assert grpo.metrics["divergence"].shape == (2,)
