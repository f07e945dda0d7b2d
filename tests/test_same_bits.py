"""The same seed gives the same bits in every stage, whatever number of worker processes helps."""

import contextlib
import io
import json

import pytest

from cotjax.config import stage_class
from cotjax.config.ranges import STAGES
from cotjax.train import main as train
from tests import test_distill_run, test_train
from tests.stages import test_bridge
from tests.test_train import assert_same_run

SMALL = ("--eval.problems=2", "--eval.samples=0", "--eval.every=0", "--checkpoint.every=0")
REWARD = """
def reward(completion, record):
    return {"right": float(completion.answer == record.answer), "tokens": completion.tokens / 64}
"""
# What gives numbers of its own in a stage: a user's reward.
OWN = {"grpo": ["--reward.function=./own_reward.py:reward"]}
QUICK = ("sft", "grpo", "distill")  # the others take longer


class World:
    """Flags of a run of each stage."""

    def __init__(self, folder):
        self.folder = folder
        self._trained = test_train.World(folder)
        self._distilled = test_distill_run.World(folder)
        (folder / "own_reward.py").write_text(REWARD, encoding="utf-8")

    def argv(self, stage, name, *more):
        own = [*SMALL, *OWN.get(stage, ()), *more]
        if stage == "bridge":
            folder = self.folder / "bridge"
            if not folder.exists():
                folder.mkdir()
                self._bridge = test_bridge.World(folder)
            return self._bridge.argv(name, *own, f"--output={self.folder / 'runs'}")
        if stage == "distill":
            return self._distilled.flags(name, *test_distill_run.ADAPTIVE, *own, "--steps=2")
        return self._trained.flags(stage, name, *own, "--steps=2")

    def run(self, stage, name, *more):
        folder = self.folder / "runs" / name
        if not folder.exists():
            with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(self.folder):
                assert train(self.argv(stage, name, *more)) == 0
        return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("same-bits"))


def workers(stage):
    """Flags for no worker process and for two, of each kind that a stage may have."""
    kinds = ["data"] if stage_class(stage).reads_key("data.workers") and stage != "bridge" else []
    kinds += ["reward"] if stage in OWN else []
    return [[f"--{kind}.workers={count}" for kind in kinds] for count in (0, 2)]


def ends(run):
    """The folders of a run that train, with their last steps."""
    for folder in sorted(run.glob("*-*/")) or [run]:
        yield folder, json.loads((folder / "result.json").read_text())["steps"]


@pytest.mark.parametrize(
    "stage",
    [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in STAGES],
)
def test_a_seed_gives_the_same_bits_with_any_number_of_workers(world, stage):
    alone, helped = workers(stage)
    one = world.run(stage, f"{stage}-alone", *alone)
    other = world.run(stage, f"{stage}-helped", *helped)
    for (mine, step), (theirs, same_step) in zip(ends(one), ends(other), strict=True):
        assert step == same_step > 0
        assert_same_run(mine, theirs, step=step)
    if stage == "grpo":  # the own reward was asked
        assert "reward_tokens" in (one / "metrics.jsonl").read_text()


def test_another_seed_gives_other_bits(world):
    one = world.run("sft", "sft-alone", "--data.workers=0")
    other = world.run("sft", "sft-another", "--seed=4")
    with pytest.raises(AssertionError):
        assert_same_run(one, other, step=2)
